package meter

// exchangeFacts are what is read of every exchange. The other facts tell of calls to language models.
var exchangeFacts = map[int]bool{
	slotRequestID: true, slotStartedAt: true, slotMethod: true, slotStatus: true, slotUpstreamStatus: true, slotSource: true,
	slotTraceParent: true, slotTries: true,
}

// LogPaths returns the paths into Kong's log that the program reads, as keys: those that it reads of every exchange, and all
// that it reads where the exchange may be a call to a language model, which a POST may be. Of a log that holds no others
// [Program.Observe] makes the same, and so does an [Excerpt].
func (p *Program) LogPaths() (every, calls [][]string) {
	for keys, slot := range p.paths.log.Paths {
		asked := exchangeFacts[slot] || p.paths.asked[slot] || p.readsBody
		if asked {
			every = append(every, keys)
		}
		if asked || p.readsLLM && slot != slotClientIP && slot != slotDuration {
			calls = append(calls, keys)
		}
	}
	return every, calls
}
