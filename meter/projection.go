package meter

// LogPaths returns the paths into Kong's log that the program reads, as keys. An [Program.Observe] of a log that holds
// nothing else gives the same events.
func (p *Program) LogPaths() [][]string { return p.paths.log.Paths() }
