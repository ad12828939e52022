package command

import (
	"bytes"
	"flag"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHelpFitsIntoATerminal(t *testing.T) {
	flags := flag.NewFlagSet("x", flag.ContinueOnError)
	flags.String("front", "lua", strings.Repeat("word ", 30)+"end")
	flags.Bool("v", false, "say more")
	flags.Int("n", 3, "a `number`")
	var out bytes.Buffer
	printHelp(&out, "Says what there is to say about this, at some length, so that it has to be wrapped,\nwhich is done here.\n\n  an example   stays\n  as it is\n\nThe end.", flags)
	want := `Says what there is to say about this, at some length, so that it has to be wrapped, which is done
here.

  an example   stays
  as it is

The end.

Flags:
  -front string
      word word word word word word word word word word word word word word word word word word word
      word word word word word word word word word word word end (default lua)
  -n number
      a number (default 3)
  -v
      say more
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
