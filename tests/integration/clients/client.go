// Posts a body with Go's own client: URL, body → a line "status answer" for each way to send it.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	body := os.Args[2]
	ways := []struct {
		reader io.Reader
		expect string
	}{
		{strings.NewReader(body), ""},
		{io.MultiReader(strings.NewReader(body)), ""}, // of unknown length: in chunks
		{strings.NewReader(body), "100-continue"},
	}
	for _, way := range ways {
		request, err := http.NewRequest("POST", os.Args[1], way.reader)
		if err != nil {
			panic(err)
		}
		request.Header.Set("Content-Type", "application/json")
		if way.expect != "" {
			request.Header.Set("Expect", way.expect)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			panic(err)
		}
		content, err := io.ReadAll(answer.Body)
		if err != nil {
			panic(err)
		}
		fmt.Println(answer.StatusCode, string(content))
	}
}
