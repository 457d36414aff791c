// Posts a body with Node's own fetch: URL, body → a line "status answer" for each way to send it.
const [url, body] = process.argv.slice(2);
const headers = { "content-type": "application/json" };
for (const options of [{ body }, { body: new Blob([body]).stream(), duplex: "half" }]) {
  const answer = await fetch(url, { method: "POST", headers, ...options });
  console.log(answer.status, await answer.text());
}
