package main

import (
	"image"
	_ "image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kafka-metering/plugin/devkong"
)

// TestTheStatusPageInABrowser has headless Chromium lay the page out, of a server with a pipeline that works and one that does
// not: wide and narrow, everything is there, nothing hangs out at the side, and nothing runs or is loaded.
func TestTheStatusPageInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("THE STATUS PAGE IS NOT LOOKED AT IN A BROWSER: there is no Chromium; apt-get install chromium")
	}
	s := startServer(t)
	kong := devkong.NewWorkers(1, devkong.WorkersOptions{})
	defer kong.Close()
	x := newExchanges(t)
	for i, conf := range []*devkong.Configuration{s.configuration(startBroker(t), ""), s.configuration(freeAddress(t), "")} {
		for n := range 10 {
			if err := kong.Worker(0).Log(t.Context(), conf, x.exchange(100*i+n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, "publishing fails", func() bool { return s.metric("kong_meter_relay_failures_consecutive") > 0 })
	page := "http://" + s.metrics + "/"
	run := func(args ...string) string {
		t.Helper()
		all := append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=" + t.TempDir()}, args...)
		out, err := exec.CommandContext(t.Context(), browser, append(all, page)...).Output()
		if err != nil {
			t.Fatalf("%s %v: %v", browser, args, err)
		}
		return string(out)
	}
	dom := run("--dump-dom")
	for _, want := range []string{"kafka-metering", "balanced", "publishing", "publishing fails", "nobody listens", "kong.metering"} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page does not say %q:\n%s", want, dom)
		}
	}
	for _, never := range []string{"<script", "src=", "@import", "url("} {
		if strings.Contains(dom, never) {
			t.Errorf("the page has %s", never)
		}
	}
	for _, width := range []string{"1200", "500"} {
		shot := filepath.Join(t.TempDir(), width+".png")
		run("--window-size="+width+",2400", "--screenshot="+shot)
		f, err := os.Open(shot)
		if err != nil {
			t.Fatal(err)
		}
		picture, _, err := image.Decode(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		// The page's margins are empty: at the right, where something too wide would reach over, and not in the middle.
		bounds, ground := picture.Bounds(), picture.At(2, 2)
		drawn := func(from, to int) (n int) {
			for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
				for x := from; x < to; x++ {
					if picture.At(x, y) != ground {
						n++
					}
				}
			}
			return n
		}
		if n := drawn(bounds.Max.X-6, bounds.Max.X); n > 0 {
			t.Errorf("%s wide: something hangs out at the side, %d points", width, n)
		}
		if n := drawn(bounds.Dx()/3, bounds.Dx()/2); n < 1000 {
			t.Errorf("%s wide: the page is empty", width)
		}
	}
}
