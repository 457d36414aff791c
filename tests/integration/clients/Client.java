import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Posts a body with the JDK's own client: URL, body → a line "status answer" for each way to send it. */
public class Client {
    public static void main(String[] args) throws Exception {
        byte[] body = args[1].getBytes("UTF-8");
        for (HttpClient.Version version : HttpClient.Version.values()) {
            if (version.ordinal() > HttpClient.Version.HTTP_2.ordinal()) continue;
            HttpClient client = HttpClient.newBuilder().version(version).build();
            HttpRequest.BodyPublisher whole = BodyPublishers.ofByteArray(body);
            HttpRequest.BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
            for (HttpRequest.BodyPublisher publisher : new HttpRequest.BodyPublisher[] {whole, chunked}) {
                for (boolean waits : new boolean[] {false, true}) {
                    HttpRequest request = HttpRequest.newBuilder(URI.create(args[0]))
                        .header("content-type", "application/json")
                        .expectContinue(waits)
                        .POST(publisher)
                        .build();
                    var answer = client.send(request, BodyHandlers.ofString());
                    System.out.println(answer.statusCode() + " " + answer.body());
                }
            }
        }
    }
}
