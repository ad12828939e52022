package command

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// helpWidth is how wide help is, in columns. Examples, which are indented, stay as they are.
const helpWidth = 100

// printHelp prints what a command is for, and its flags.
func printHelp(w io.Writer, about string, flags *flag.FlagSet) {
	fmt.Fprintln(w, refill(about))
	n := 0
	flags.VisitAll(func(*flag.Flag) { n++ })
	if n > 0 {
		fmt.Fprintln(w, "\nFlags:")
		PrintFlags(w, flags)
	}
}

// PrintFlags prints what flags there are.
func PrintFlags(w io.Writer, flags *flag.FlagSet) {
	flags.VisitAll(func(f *flag.Flag) {
		argument, usage := flag.UnquoteUsage(f)
		switch f.DefValue {
		case "", "0", "false":
		default:
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintln(w, strings.TrimRight("  -"+f.Name+" "+argument, " "))
		const indent = "      "
		for _, line := range wrap(usage, helpWidth-len(indent)) {
			fmt.Fprintln(w, indent+line)
		}
	})
}

// refill wraps the paragraphs of a text anew, and leaves lines alone that are indented.
func refill(text string) string {
	var out, paragraph []string
	flush := func() {
		out = append(out, wrap(strings.Join(paragraph, " "), helpWidth)...)
		paragraph = nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || line[0] == ' ' {
			flush()
			out = append(out, line)
			continue
		}
		paragraph = append(paragraph, line)
	}
	flush()
	return strings.Join(out, "\n")
}

// wrap returns the lines of a paragraph.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
