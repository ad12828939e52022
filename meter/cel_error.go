package meter

import (
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/operators"
)

// celError returns the first of CEL's errors, with its place.
func celError(source string, all []*common.Error) error {
	e := all[0]
	offset, line := 0, 1
	for ; line < e.Location.Line(); line++ {
		i := strings.IndexByte(source[offset:], '\n')
		if i < 0 {
			break
		}
		offset += i + 1
	}
	for range e.Location.Column() {
		_, size := utf8.DecodeRuneInString(source[offset:])
		offset += size
	}
	return &syntaxError{source: source, offset: callOffset(source, offset), message: inWords(e.Message, source[:offset])}
}

// What CEL's parser and checker say, as far as it can be said better.
var (
	unexpectedInput = regexp.MustCompile(`^(?:mismatched|extraneous) input '(.*?)' expecting`)
	unknownSign     = regexp.MustCompile(`^token recognition error at: '(.)`)
	undeclaredName  = regexp.MustCompile(`^undeclared reference to '(.*?)'.*?(?:did you mean '([\w.]+)'\?\))?$`)
	noOverload      = regexp.MustCompile(`^found no matching overload for '(.*?)' applied to '(?:(.*)\.)?\((.*)\)'$`)
	celType         = regexp.MustCompile(`\b(?:double|string|bool|dyn|list|map)\b(?:\([\w, ]*\))?`)
)

// otherLanguages are words and signs of other languages, and what they are in CEL.
var otherLanguages = map[string]string{
	"and": "&&", "or": "||", "not": "!", "AND": "&&", "OR": "||", "NOT": "!", "=": "==", "&": "&&", "|": "||",
	"max": "math.greatest", "min": "math.least", "math.max": "math.greatest", "math.min": "math.least", "abs": "math.abs", "round": "math.round",
	"ceil": "math.ceil", "floor": "math.floor", "len": "size", "length": "size", "upper": "upperAscii", "toLower": "lower", "toUpper": "upperAscii",
	"float": "double", "number": "double", "includes": "contains", "any": "exists", "default": "orValue", "coalesce": "orValue",
}

// inWords says what CEL says to somebody who does not know its insides. before is the expression up to the place.
func inWords(message, before string) string {
	message = strings.TrimPrefix(message, "Syntax error: ")
	written := func(word string) string { return word + " is written " + otherLanguages[word] + " here" }
	if m := unexpectedInput.FindStringSubmatch(message); m != nil {
		last := before[strings.LastIndexAny(strings.TrimRight(before, " \n"), " (\n")+1:]
		switch last = strings.TrimSpace(last); {
		case otherLanguages[m[1]] != "":
			return written(m[1])
		case last == "not" || last == "NOT":
			return written(last)
		case m[1] == "<EOF>":
			return "the expression ends too early"
		default:
			return m[1] + " is not expected here"
		}
	}
	if m := unknownSign.FindStringSubmatch(message); m != nil {
		if otherLanguages[m[1]] != "" {
			return written(m[1])
		}
		return "there is no " + m[1] + " in CEL"
	}
	if m := undeclaredName.FindStringSubmatch(message); m != nil {
		return noFunction(m[1], m[2])
	}
	if m := noOverload.FindStringSubmatch(message); m != nil {
		name, target, arguments := strings.TrimPrefix(m[1], "@"), inWordsType(m[2]), inWordsType(m[3])
		if sign, ok := operators.FindReverse(m[1]); ok && sign != "" {
			name = sign
		}
		switch {
		case m[1] == operators.Conditional:
			return "? : takes true or false, and two results of one kind, not (" + arguments + ")"
		case target != "":
			return "there is no (" + target + ")." + name + "(" + arguments + ")"
		default:
			return name + " does not take (" + arguments + ")"
		}
	}
	return message
}

// callOffset returns where a call begins, which is for CEL where its arguments do.
func callOffset(source string, offset int) int {
	if !strings.HasPrefix(source[offset:], "(") {
		return offset
	}
	return len(strings.TrimRight(source[:offset], nameCharacters))
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

// noFunction says that there is no such function. CEL's own suggestion counts least: it does not know all of them.
func noFunction(name, suggestion string) string {
	message := "there is no function " + name
	if suggestion = cmp.Or(otherLanguages[name], Nearest(name, functionNames()), suggestion); suggestion != "" {
		message += ", did you mean " + suggestion + "?"
	}
	return message
}

// functionNames are those of all functions and macros.
var functionNames = sync.OnceValue(func() []string {
	env, err := environment()
	if err != nil {
		panic("bug: " + err.Error())
	}
	var names []string
	for name := range env.Functions() {
		if strings.Trim(name, nameCharacters+".") == "" && !strings.HasPrefix(name, "_") {
			names = append(names, name)
		}
	}
	for _, macro := range env.Macros() {
		names = append(names, macro.Function())
	}
	slices.Sort(names)
	return slices.Compact(names)
})

// inWordsType says what CEL's types are in JSON.
func inWordsType(list string) string {
	return celType.ReplaceAllStringFunc(list, func(written string) string {
		name, _, _ := strings.Cut(written, "(")
		return map[string]string{"double": "number", "string": "text", "bool": "true or false", "dyn": "any", "list": "list", "map": "object"}[name]
	})
}

// conversion is what CEL says where a value cannot be made one of another type.
var conversion = regexp.MustCompile(`^type conversion error from '(\w+)' to '(\w+)'`)

// harmless returns an error's text without values of the exchange: it goes into logs. CEL quotes them.
func harmless(err error) string {
	text, _, quoted := strings.Cut(err.Error(), `"`)
	if m := conversion.FindStringSubmatch(text); m != nil {
		return "a " + inWordsType(m[1]) + " cannot be made a " + inWordsType(m[2])
	}
	switch {
	case strings.HasPrefix(text, "no such overload"):
		return "an operator or a function does not take a value of this type"
	case quoted:
		return text + "…"
	default:
		return text
	}
}

// isAbsent reports whether an evaluation has failed because of something that is not there. CEL's own errors of that kind,
// for the members and elements that a path does not name, have no type that can be asked for.
func isAbsent(err error) bool {
	if errors.Is(err, errAbsent) {
		return true
	}
	text := err.Error()
	return strings.HasPrefix(text, "no such key") || strings.HasPrefix(text, "index out of bounds") || strings.HasPrefix(text, "no such attribute")
}
