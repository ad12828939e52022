package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"kafka-metering/plugin/lint"
)

const lintAbout = `Checks how the plugin is configured: in kong.yml and decK files, KongPlugin manifests of the Kong Ingress Controller, and files
with the plugin's config alone. What Kong refuses, expressions that are not CEL, meters that contradict each other or can never apply,
usage that is counted twice, secrets, dimensions without bounds: every problem at once, as file:line:column: message.

  kafka-metering lint kong.yml
  kafka-metering lint -strict -format sarif deck/*.yaml > lint.sarif

The exit status is 1 if there are errors, with -strict also for warnings.`

// errFindings ends the command with status 1; what was found has been printed.
var errFindings = errors.New("there are problems")

// runLint runs the command lint.
func runLint(args []string, in io.Reader, out, errs io.Writer, host Host) error {
	flags := flag.NewFlagSet("lint", flag.ContinueOnError)
	flags.SetOutput(errs)
	format := flags.String("format", "text", "text, json or sarif")
	strict := flags.Bool("strict", false, "warnings are errors")
	if err := parseFiles(flags, args, lintAbout, out); err != nil {
		return err
	}
	names := flags.Args()
	if len(names) == 0 {
		names = []string{"kong.yml"}
	}
	var findings []lint.Finding
	var unread []error
	for _, name := range names {
		data, err := readFile(name, in)
		if err != nil {
			unread = append(unread, err)
			continue
		}
		findings = append(findings, lint.File(name, data, host.Check)...)
	}
	var err error
	switch *format {
	case "text":
		err = lint.WriteText(out, findings)
	case "json":
		err = lint.WriteJSON(out, findings)
	case "sarif":
		err = lint.WriteSARIF(out, host.Version, findings)
	default:
		return fmt.Errorf("-format %q: must be text, json or sarif", *format)
	}
	if err != nil {
		return err
	}
	wrong, warnings := 0, 0
	for _, f := range findings {
		if f.Severity == lint.Error || *strict {
			wrong++
		} else {
			warnings++
		}
	}
	switch {
	case len(unread) > 0:
		return errors.Join(unread...)
	case wrong > 0:
		return fmt.Errorf("%w: %d, and %d warnings", errFindings, wrong, warnings)
	case warnings > 0:
		fmt.Fprintf(errs, "no errors, %d warnings\n", warnings)
	case *format == "text":
		fmt.Fprintln(errs, "no problems")
	}
	return nil
}

// readFile reads a file, or standard input for "-".
func readFile(name string, in io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(name)
}
