package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"kafka-metering/plugin/devkong/replay"
)

const upstreamAbout = `Serves an upstream that replays LLM answers, as JSON and as streams, in the formats of OpenAI, Anthropic and Gemini, and
answers of an orders API: something to point a Kong service at.

Example:
  kafka-metering upstream -listen 127.0.0.1:8080
  curl http://127.0.0.1:8080/v1/chat/completions -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}'`

// runUpstream is the command upstream.
func runUpstream(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("upstream", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8080", "`address` to listen on")
	if err := parse(flags, args, upstreamAbout); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listen on -listen %q: %w", *listen, err)
	}
	fmt.Fprintf(out, "replaying LLM answers on http://%s\n", listener.Addr())
	server := &http.Server{Handler: &replay.Server{NoLedger: true}, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
