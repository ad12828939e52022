package extract

import (
	"kafka-metering/meter"
	"kafka-metering/meter/scan"
)

// format is how one API declares usage. The rules are data; read, ends and settle hold what is not.
type format struct {
	api       string   // what the API is called here, for explanations
	operation string   // gen_ai.operation.name, where neither path nor shape says more
	markers   []string // the keys, quoted, without one of which no message declares anything
	shapes    []shape  // how its messages look, whatever the path; any of them will do
	texts     []textRule
	roots     []string // where the usage of a message stands; "" is the message itself
	counts    []countRule
	amounts   []amountRule
	lists     []listRule
	delivers  delivery // for estimates
	native    string   // the provider whose own format this is
	models    string   // what the names of that provider's models start with
	arrays    arrayKind
	merging   merging
	bedrock   bedrock
	lateEnd   bool // the finish reason may stand in a message that declares no usage

	// read takes a message that has been scanned. nil: the first root that declares something replaces what was declared.
	read func(c *Reader)
	// ends reports whether an event that declares nothing says that the stream is whole. nil: no event does.
	ends func(c *Reader, data []byte) bool
	// begins reports whether an event behind the last one of an answer is the first one of another. nil: no event is.
	begins func(c *Reader, data []byte) bool
	// settle turns the numbers as declared by a provider, "" if unknown, into meter's. nil: they are.
	settle func(u *meter.Usage, provider string)

	message *scan.Shape // compiled from texts and roots
	usage   *scan.Shape // compiled from counts, amounts and lists
	answers *format     // the format of the elements of an arrayOfAnswers
}

// arrayKind says whether messages may come in a JSON array.
type arrayKind uint8

const (
	noArrays       arrayKind = iota
	arrayStream              // a stream does
	arrayOfOne               // a document does
	arrayOfAnswers           // documents do, each of which answers for itself: they add up
)

// merging says what becomes of the usage that several messages of one response declare.
type merging uint8

const (
	replaces merging = iota // they are cumulative and repeated in full: the last one counts
	overlays                // they are cumulative and repeated in part: each number's last one counts
	peaks                   // the same, and a number that is not repeated becomes zero: each number's largest counts
	sums                    // they are of answers of their own: they add up
)

// bedrock says when what Bedrock counts goes over what the model counts.
type bedrock uint8

const (
	bedrockAlone  bedrock = iota // never: it stands in for it
	bedrockStream                // in the last chunk of a stream
	bedrockWins                  // there and in the headers
)

// countRule says which quantity stands at a path below a root. Of several rules for one quantity the first whose path is
// declared counts.
type countRule struct {
	path     string
	quantity meter.Quantity
}

// amountRule is the same for amounts.
type amountRule struct {
	path   string
	amount meter.Amount
}

// listRule says which quantities stand in the elements of a list: they add up.
type listRule struct {
	path   string
	counts []countRule // below each element
	// named, when it is set, chooses by an element's name instead which quantity its first count is.
	named func(name []byte) (meter.Quantity, bool)
	name  string

	shape *scan.Shape
}

// textRule says which text stands at a path of a message. Of several rules for one slot the first whose path has a value
// counts, wherever it stands in the message.
type textRule struct {
	path string
	slot int
}

// Slots of the texts that formats read. The roots follow, and what stands at the path of each rule.
const (
	slotModel = iota
	slotID
	slotFinish
	slotType
	slotFlag // what a format's own read or ends looks at
	slotSide // the same
	numTextSlots
	maxRoots = 8
	maxTexts = 16
	maxSlots = numTextSlots + maxRoots + maxTexts
	maxRules = 128 // counts, amounts and lists of one format
	maxFound = 8   // counts of a list's elements, and their name
)

// shape is a set of members by which a message shows its format.
type shape struct {
	signs     []sign
	operation string // what it says of the operation; "" is nothing
}

// sign is one of them: its path, and its value where that matters. A value that ends in a star is a prefix; one that is
// a bracket is the kind of value.
type sign struct{ path, value string }

// compile makes the format's shapes.
func (f format) compile() *format {
	f.message, f.usage = new(scan.Shape), new(scan.Shape)
	for i, t := range f.texts {
		f.message.Add(t.path, numTextSlots+maxRoots+i)
	}
	for i, root := range f.roots {
		if root != "" {
			f.message.Add(root, numTextSlots+i)
		}
	}
	slot := 0
	for _, c := range f.counts {
		f.usage.Add(c.path, slot)
		slot++
	}
	for _, a := range f.amounts {
		f.usage.Add(a.path, slot)
		slot++
	}
	for i := range f.lists {
		l := &f.lists[i]
		if len(l.counts) >= maxFound {
			panic("bug: a list of the format " + f.api + " has too many rules")
		}
		f.usage.Add(l.path, slot)
		slot++
		l.shape = new(scan.Shape)
		for j, c := range l.counts {
			l.shape.Add(c.path, j)
		}
		if l.named != nil {
			l.shape.Add(l.name, len(l.counts))
		}
	}
	f.delivers.compile()
	if slot > maxRules || len(f.roots) > maxRoots || len(f.texts) > maxTexts {
		panic("bug: the format " + f.api + " has too many rules")
	}
	if f.arrays == arrayOfAnswers {
		answers := f
		answers.merging, answers.ends = sums, nil
		f.answers = &answers
	}
	return &f
}

// formats are all of them, in the order in which a message is compared with their shapes: the strictest first.
var formats = []*format{
	anthropicBatch, geminiBatch, batch, anthropicMessages, anthropicComplete, realtime, openAIResponses, geminiContent, geminiLive, interactions,
	converse, bedrockAgent, cohereChat, ollama, watsonx, titan, llama, vertexPredict, replicate, deepgram, llamaServer, lmStudio, sgLang, alephAlpha,
	deepInfra, oci, hunyuan, cloudflareAudio, miniMaxEmbeddings,
	openAIChat, textGeneration,
}
