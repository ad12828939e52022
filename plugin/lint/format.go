package lint

import (
	"encoding/json"
	"fmt"
	"io"
)

// WriteText writes findings as compilers write theirs: file:line:column: message.
func WriteText(w io.Writer, findings []Finding) error {
	for _, f := range findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes findings as a JSON array.
func WriteJSON(w io.Writer, findings []Finding) error {
	if findings == nil {
		findings = []Finding{}
	}
	return write(w, findings)
}

// WriteSARIF writes findings in the Static Analysis Results Interchange Format 2.1.0, which code hosts show beside the lines.
func WriteSARIF(w io.Writer, version string, findings []Finding) error {
	type message struct {
		Text string `json:"text"`
	}
	type rule struct {
		ID               Rule    `json:"id"`
		ShortDescription message `json:"shortDescription"`
	}
	type region struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
	type artifact struct {
		URI string `json:"uri"`
	}
	type physical struct {
		ArtifactLocation artifact `json:"artifactLocation"`
		Region           region   `json:"region"`
	}
	type location struct {
		PhysicalLocation physical `json:"physicalLocation"`
	}
	type result struct {
		RuleID    Rule       `json:"ruleId"`
		Level     Severity   `json:"level"`
		Message   message    `json:"message"`
		Locations []location `json:"locations"`
	}
	type driver struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Rules   []rule `json:"rules"`
	}
	type tool struct {
		Driver driver `json:"driver"`
	}
	type run struct {
		Tool       tool     `json:"tool"`
		ColumnKind string   `json:"columnKind"`
		Results    []result `json:"results"`
	}
	r := run{Tool: tool{driver{Name: PluginName + " lint", Version: version}}, ColumnKind: "unicodeCodePoints", Results: []result{}}
	for _, known := range Rules {
		r.Tool.Driver.Rules = append(r.Tool.Driver.Rules, rule{known.Rule, message{known.Text}})
	}
	for _, f := range findings {
		r.Results = append(r.Results, result{f.Rule, f.Severity, message{f.Message}, []location{{physical{artifact{f.File}, region{f.Line, f.Column}}}}})
	}
	return write(w, map[string]any{"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": []run{r}})
}

func write(w io.Writer, document any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(document)
}
