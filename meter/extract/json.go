package extract

import "kafka-metering/meter/scan"

// maxText bounds a text that is read from a response (a model, an id), in bytes. A longer one is left out.
const maxText = 256

// text returns the text of a raw JSON string, "" for any other value and for one that is too long to be a name.
func text(raw []byte) string {
	if len(raw) > 6*maxText+2 {
		return ""
	}
	if s := scan.Unquote(raw); len(s) <= maxText {
		return s
	}
	return ""
}

// is reports whether raw is the JSON string s, which needs no escapes.
func is(raw []byte, s string) bool {
	return len(raw) == len(s)+2 && raw[0] == '"' && string(raw[1:len(raw)-1]) == s
}
