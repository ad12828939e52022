package command

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// maxDocument bounds one observation, in bytes.
const maxDocument = 16 << 20

// observationFiles returns the files that args name: files, and those of directories, oldest first.
func observationFiles(args []string) ([]string, error) {
	var files []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil && arg != "-" {
			return nil, err
		}
		if arg == "-" || !info.IsDir() {
			files = append(files, arg)
			continue
		}
		found, err := filepath.Glob(filepath.Join(arg, "*.jsonl"))
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("%s: there are no observations (*.jsonl): the plugin keeps them where config.record is true", arg)
		}
		slices.Sort(found)
		files = append(files, found...)
	}
	return files, nil
}

// eachDocument calls yield for each JSON document of a file: one document, or one a line. A last line that is cut off, as
// while it is being written, is left out.
func eachDocument(name string, in io.Reader, yield func(document []byte) error) error {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // it has been read
		in = f
	}
	if !strings.HasSuffix(name, ".jsonl") {
		whole, err := io.ReadAll(io.LimitReader(in, maxDocument))
		if err != nil {
			return err
		}
		if document := bytes.TrimSpace(whole); gjson.ValidBytes(document) {
			return yield(document)
		}
		in = io.MultiReader(bytes.NewReader(whole), in) // one a line, and more of them perhaps
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 1<<16), maxDocument)
	number := 0
	for lines.Scan() {
		number++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if !gjson.ValidBytes(lines.Bytes()) {
			if !lines.Scan() {
				if number == 1 {
					return fmt.Errorf("%s: there is no JSON document in it", name)
				}
				break
			}
			return fmt.Errorf("%s:%d: no JSON document", name, number)
		}
		if err := yield(lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", name, number+1, err)
	}
	if number == 0 {
		return fmt.Errorf("%s: there is no JSON document in it", name)
	}
	return nil
}
