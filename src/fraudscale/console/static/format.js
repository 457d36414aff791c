// Numbers and times as people read them; units by Grafana's names.

const ABSENT = "–";

function digits(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1).replace(/\.0$/, "");
  if (size >= 0.01) return String(Number(value.toFixed(2)));
  return "<0.01";
}

function scaled(value, base, units) {
  let index = 0;
  while (Math.abs(value) >= base && index < units.length - 1) {
    value /= base;
    index += 1;
  }
  return [digits(value), units[index]];
}

function seconds(value) {
  const size = Math.abs(value);
  if (size === 0) return ["0", "s"];
  if (size < 0.001) return [digits(value * 1e6), "µs"];
  if (size < 1) return [digits(value * 1e3), "ms"];
  if (size < 120) return [digits(value), "s"];
  return size < 7200 ? [digits(value / 60), "min"] : [digits(value / 3600), "h"];
}

/** Split a value in its unit into number and unit, to be set apart. */
export function split(value, unit) {
  if (value === null || value === undefined || !Number.isFinite(value)) return [ABSENT, ""];
  if (unit === "percentunit") return [digits(100 * value), "%"];
  if (unit === "percent") return [digits(value), "%"];
  if (unit === "s") return seconds(value);
  if (unit === "bytes") return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
  const whole = Number.isInteger(value) && Math.abs(value) < 10000;
  const [number, thousands] = whole ? [value.toLocaleString("en"), ""] : scaled(value, 1000, ["", "k", "M", "G"]);
  const suffix = unit?.startsWith("suffix:") ? unit.slice("suffix:".length) : "";
  return [number, thousands + suffix];
}

export function format(value, unit) {
  const [number, name] = split(value, unit);
  return name === "" || name.startsWith("/") ? number + name : `${number}\u00a0${name}`;
}

/** The time of day of seconds since the epoch, with the day where that is not today. */
export function clock(at, withSeconds = true) {
  const date = new Date(1000 * at);
  const time = date.toLocaleTimeString([], {
    hour: "2-digit", minute: "2-digit", second: withSeconds ? "2-digit" : undefined, hourCycle: "h23",
  });
  const today = date.toDateString() === new Date().toDateString();
  return today ? time : `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

export function ago(at, now) {
  const passed = Math.max(0, now - at);
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  return passed < 172800 ? `${Math.floor(passed / 3600)} h ago` : `${Math.floor(passed / 86400)} days ago`;
}

/** Grafana's legend: `{{label}}` stands for the label's value. */
export function legend(template, labels) {
  return template.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? "");
}
