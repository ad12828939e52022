package extract

import "kafka-metering/meter"

// readRoots takes over the usage of the first root that declares something. A usage without numbers (Vertex AI sends one
// that tells the kind of traffic) says nothing and replaces nothing.
func (c *Reader) readRoots() {
	for root := range c.format.roots {
		u, ok := c.usage(root)
		if ok && u.Empty() {
			continue
		}
		c.merge(u, ok)
		return
	}
}

// merge takes over what one message declares.
func (c *Reader) merge(u *meter.Usage, ok bool) {
	switch c.format.merging {
	case replaces:
		c.replace(u, ok)
	case sums:
		c.add(u, ok)
	case overlays, peaks:
		if !ok {
			c.bad = true // for good: what it goes over or under is not known any more
			return
		}
		if c.format.merging == peaks {
			raise(u, &c.declared)
		}
		c.declared.Overlay(u)
		c.settled, c.damaged, c.lost = true, false, false
	}
}

// raise makes no count of u smaller than v's.
func raise(u, v *meter.Usage) {
	for _, q := range meter.Quantities() {
		if n, ok := u.Get(q); ok {
			before, _ := v.Get(q)
			u.Set(q, max(n, before))
		}
	}
}

// usage reads the numbers below a root of the format, valid until the next call. ok is false when one of them is no count.
func (c *Reader) usage(root int) (u *meter.Usage, ok bool) {
	u = &c.latest
	*u = meter.Usage{}
	raw := c.texts[numTextSlots+root]
	if len(raw) == 0 || raw[0] != '{' {
		return u, true
	}
	f := c.format
	clear(c.numbers[:len(f.counts)+len(f.amounts)+len(f.lists)])
	if c.scanner.Scan(raw, f.usage, c.numbers[:]) != nil {
		return u, false
	}
	slot := 0
	for _, rule := range f.counts {
		raw := c.numbers[slot]
		slot++
		if _, declared := u.Get(rule.quantity); declared || raw == nil {
			continue
		}
		n, ok := count(raw)
		if !ok {
			c.explainBad(root, rule.path, raw)
			return u, false
		}
		u.Set(rule.quantity, n)
		c.explainCount(root, rule.path, rule.quantity, n)
	}
	for _, rule := range f.amounts {
		if x, ok := amount(c.numbers[slot]); ok {
			if _, declared := u.Amount(rule.amount); !declared {
				u.SetAmount(rule.amount, x)
				c.explainAmount(root, rule.path, rule.amount, c.numbers[slot])
			}
		}
		slot++
	}
	for i := range f.lists {
		if !c.sumList(u, root, &f.lists[i], c.numbers[slot]) {
			return u, false
		}
		slot++
	}
	return u, true
}

// sumList adds up what the elements of a list declare, and reports whether all of it are counts. The list has been scanned
// before.
func (c *Reader) sumList(u *meter.Usage, root int, rule *listRule, list []byte) bool {
	if len(list) == 0 || list[0] != '[' {
		return true
	}
	sum := &c.sum
	*sum = meter.Usage{}
	found := &c.found
	c.list.Open(list)
	for {
		clear(found[:])
		if element, err := c.list.Next(rule.shape, found[:]); element == nil || err != nil {
			break
		}
		for i, r := range rule.counts {
			q := r.quantity
			if rule.named != nil {
				named, ok := rule.named(found[len(rule.counts)])
				if !ok {
					continue
				}
				q = named
			}
			if found[i] == nil {
				continue
			}
			n, ok := count(found[i])
			before, _ := sum.Get(q)
			if !ok || before+n > maxCount {
				c.explainBad(root, rule.path, found[i])
				return false
			}
			sum.Set(q, before+n)
		}
	}
	for _, q := range meter.Quantities() {
		n, declared := sum.Get(q)
		if _, already := u.Get(q); declared && !already {
			u.Set(q, n)
			c.explainCount(root, rule.path, q, n)
		}
	}
	return true
}

// replace makes u what the provider declares: the rule for numbers that are cumulative and repeated in full.
func (c *Reader) replace(u *meter.Usage, ok bool) {
	c.declared, c.bad, c.settled, c.damaged, c.lost = *u, !ok, true, false, false
}

// add adds u to what is declared: the rule for answers of their own in one response. The sum is bounded like a count.
func (c *Reader) add(u *meter.Usage, ok bool) {
	if !ok {
		c.bad = true // for good: the sum lacks something
		return
	}
	if c.format.settle != nil {
		c.format.settle(u, c.llm.Provider)
	}
	complement(u)
	u.Set(meter.Answers, 1)
	c.declared.Add(u)
	c.settled = true
	c.bad = c.bad || tooLarge(&c.declared)
}

// tooLarge reports whether a sum is more than any count may be.
func tooLarge(u *meter.Usage) bool {
	for _, q := range meter.Quantities() {
		if n, _ := u.Get(q); n > maxCount {
			return true
		}
	}
	return false
}
