package command

import (
	"cmp"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"kafka-metering/meter"
)

// declaredMeter is a meter as a configuration declares it.
type declaredMeter struct {
	Slug          string            `yaml:"slug"`
	EventType     string            `yaml:"event_type"`
	Aggregation   meter.Aggregation `yaml:"aggregation"`
	Filter        string            `yaml:"filter,omitempty"`
	ForEach       string            `yaml:"for_each,omitempty"`
	Value         string            `yaml:"value,omitempty"`
	ValueProperty string            `yaml:"value_property"`
	GroupBy       map[string]string `yaml:"group_by,omitempty"`
}

// printMeters prints the meters of a configuration, the built-in ones like the others, as a configuration would declare them.
func (e *evaluators) printMeters(out io.Writer, config string) error {
	for i, evaluator := range e.made {
		meters := []declaredMeter{}
		for _, m := range evaluator.Program().Declared() {
			meters = append(meters, declaredMeter{
				m.Slug, m.EventType, m.Aggregation, m.Filter, m.ForEach, m.Value, cmp.Or(m.ValueProperty, meter.DefaultValueProperty), m.GroupBy,
			})
		}
		document, err := yaml.Marshal(map[string]any{"meters": meters})
		if err != nil {
			return err
		}
		if config != "" {
			document = append(fmt.Appendf(nil, "# %s, %s\n", config, &e.uses[i]), document...)
		}
		if i > 0 {
			document = append([]byte("---\n"), document...)
		}
		if _, err := out.Write(document); err != nil {
			return err
		}
	}
	return nil
}
