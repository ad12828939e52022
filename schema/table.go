package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// ConfigTable returns the reference of the plugin's configuration as a Markdown table.
func ConfigTable() string {
	t := table{}
	t.row("field", "type", "default", "description")
	t.row("---", "---", "---", "---")
	t.config("", Config())
	return t.String()
}

// EventTable returns the reference of the members of data for one of the presets' event types as a Markdown table, or,
// for the empty event type, that of the attributes of an event.
func EventTable(eventType string) string {
	urn := EventSchema
	if eventType != "" {
		urn = DataSchema(eventType)
	}
	var doc struct {
		Required   []string
		Properties ordered
	}
	if err := json.Unmarshal(EventSchemas()[urn], &doc); err != nil {
		panic(fmt.Sprintf("bug: %s: %v", urn, err))
	}
	always := map[string]string{}
	for _, name := range doc.Required {
		always[name] = "always"
	}
	t := table{}
	t.row("member", "type", "present", "description")
	t.row("---", "---", "---", "---")
	for _, m := range doc.Properties {
		var p struct {
			Type, Description string
			Enum              []string
			Const             any
		}
		if err := json.Unmarshal(m.value, &p); err != nil {
			panic(fmt.Sprintf("bug: %s: %s: %v", urn, m.name, err))
		}
		kind := p.Type
		switch {
		case p.Const != nil:
			kind = code(p.Const)
		case p.Enum != nil:
			kind = choices(p.Enum)
		}
		present := always[m.name]
		if present == "" {
			present = "if known"
		}
		t.row(code(m.name), kind, present, escapeHTML(p.Description))
	}
	return t.String()
}

// table collects the lines of a Markdown table.
type table struct{ strings.Builder }

// row adds a line. A | within a cell would end it.
func (t *table) row(cells ...string) {
	for _, c := range cells {
		t.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
	}
	t.WriteString("|\n")
}

// config adds the fields of a record, and below each record or list of records the fields of that.
func (t *table) config(prefix string, record *Field) {
	for _, f := range record.Fields {
		name := prefix + f.Name
		t.row(code(name), f.kind(), f.defaultCell(), escapeHTML(f.Description))
		switch {
		case f.Type == TypeRecord:
			t.config(name+".", f)
		case f.Elements != nil && f.Elements.Type == TypeRecord:
			t.config(name+"[].", f.Elements)
		}
	}
}

// kind describes what values a field takes.
func (f *Field) kind() string {
	kind := f.Type
	switch {
	case f.Elements != nil:
		kind += " of " + f.Elements.kind() + "s"
	case f.Type == TypeMap:
		kind += " of " + f.Keys.Type + " to " + f.Values.Type
	case f.OneOf != nil:
		options := make([]string, len(f.OneOf))
		for i, o := range f.OneOf {
			options[i] = fmt.Sprint(o)
		}
		kind = choices(options)
	}
	if f.Between != nil {
		kind += ", " + decimal(f.Between[0]) + " to " + decimal(f.Between[1])
	}
	if f.LenMax != nil {
		kind += fmt.Sprintf(", up to %d bytes", *f.LenMax)
	}
	if f.Referenceable {
		kind += ", or vault reference"
	}
	if f.Encrypted {
		kind += ", stored encrypted"
	}
	return kind
}

// defaultCell describes what an unset field means.
func (f *Field) defaultCell() string {
	switch d := f.Default.(type) {
	case nil:
		if f.Required && f.Type != TypeRecord {
			return "required"
		}
		return ""
	case []any:
		if len(d) == 0 {
			return "none"
		}
		entries := make([]string, len(d))
		for i, entry := range d {
			entries[i] = fmt.Sprint(entry)
			if m, ok := entry.(map[string]any); ok {
				var values []string
				for _, sub := range f.Elements.Fields {
					values = append(values, fmt.Sprint(m[sub.Name]))
				}
				entries[i] = strings.Join(values, " ")
			}
			entries[i] = code(entries[i])
		}
		return strings.Join(entries, ", then ")
	case float64:
		return code(decimal(d))
	default:
		return code(d)
	}
}

func code(v any) string { return fmt.Sprintf("`%v`", v) }

func choices(options []string) string {
	quoted := make([]string, len(options))
	for i, o := range options {
		quoted[i] = code(o)
	}
	return strings.Join(quoted, ", ")
}

// escapeHTML keeps <placeholders> visible in Markdown.
func escapeHTML(s string) string { return strings.ReplaceAll(s, "<", "&lt;") }

// ordered is a JSON object whose members keep their order.
type ordered []struct {
	name  string
	value json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *ordered) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil { // the opening brace
		return err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		*o = append(*o, struct {
			name  string
			value json.RawMessage
		}{fmt.Sprint(name), value})
	}
	return nil
}
