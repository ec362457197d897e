package plan

import (
	"regexp"
	"regexp/syntax"
	"unicode/utf8"
)

// pattern is a compiled regular expression. Anchored sequences of character classes, which most patterns are, run as a walk over the
// text; everything else runs as RE2. Both are linear.
type pattern struct {
	text  string
	steps []step // nil: use re
	re    *regexp.Regexp
}

// step takes between min and max characters of a class.
type step struct {
	ascii    [2]uint64 // the class below U+0080
	ranges   []rune    // the class above it, pairs
	min, max int       // max -1: unbounded
}

func (s *step) has(r rune) bool {
	if r < utf8.RuneSelf {
		return s.ascii[r>>6]&(1<<(r&63)) != 0
	}
	for i := 0; i < len(s.ranges); i += 2 {
		if r >= s.ranges[i] && r <= s.ranges[i+1] {
			return true
		}
	}
	return false
}

func compilePattern(re *regexp.Regexp) *pattern {
	p := &pattern{text: re.String(), re: re}
	tree, err := syntax.Parse(p.text, syntax.Perl)
	if err != nil || tree.Op != syntax.OpConcat || len(tree.Sub) < 3 {
		return p
	}
	last := len(tree.Sub) - 1
	if tree.Sub[0].Op != syntax.OpBeginText || tree.Sub[last].Op != syntax.OpEndText || tree.Sub[last].Flags&syntax.WasDollar == 0 {
		return p
	}
	var steps []step
	for _, sub := range tree.Sub[1:last] {
		more, ok := stepsOf(sub)
		if !ok {
			return p
		}
		steps = append(steps, more...)
	}
	if greedy(steps) {
		p.steps = steps
	}
	return p
}

// stepsOf translates a literal, a class, or a repetition of one class.
func stepsOf(re *syntax.Regexp) ([]step, bool) {
	if re.Flags&(syntax.FoldCase|syntax.NonGreedy) != 0 {
		return nil, false
	}
	switch re.Op {
	case syntax.OpLiteral:
		var steps []step
		for _, r := range re.Rune {
			steps = append(steps, newStep([]rune{r, r}, 1, 1))
		}
		return steps, true
	case syntax.OpCharClass:
		return []step{newStep(re.Rune, 1, 1)}, true
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		one, ok := stepsOf(re.Sub[0])
		if !ok || len(one) != 1 || one[0].min != 1 || one[0].max != 1 {
			return nil, false
		}
		one[0].min, one[0].max = counts(re)
		return one, true
	}
	return nil, false
}

func counts(re *syntax.Regexp) (low, high int) {
	switch re.Op {
	case syntax.OpStar:
		return 0, -1
	case syntax.OpPlus:
		return 1, -1
	case syntax.OpQuest:
		return 0, 1
	}
	return re.Min, re.Max
}

func newStep(ranges []rune, low, high int) step {
	s := step{min: low, max: high}
	for i := 0; i < len(ranges); i += 2 {
		for r := ranges[i]; r <= ranges[i+1] && r < utf8.RuneSelf; r++ {
			s.ascii[r>>6] |= 1 << (r & 63)
		}
		if ranges[i+1] >= utf8.RuneSelf {
			s.ranges = append(s.ranges, max(ranges[i], utf8.RuneSelf), ranges[i+1])
		}
	}
	return s
}

// greedy reports whether taking as many characters as possible at each step is right: a step of variable length must share no
// character with any later one that could follow it.
func greedy(steps []step) bool {
	for i := range steps {
		if steps[i].min == steps[i].max {
			continue
		}
		for j := i + 1; j < len(steps); j++ {
			if overlap(&steps[i], &steps[j]) {
				return false
			}
			if steps[j].min > 0 {
				break
			}
		}
	}
	return true
}

func overlap(a, b *step) bool {
	if a.ascii[0]&b.ascii[0]|a.ascii[1]&b.ascii[1] != 0 {
		return true
	}
	for i := 0; i < len(a.ranges); i += 2 {
		for j := 0; j < len(b.ranges); j += 2 {
			if a.ranges[i] <= b.ranges[j+1] && b.ranges[j] <= a.ranges[i+1] {
				return true
			}
		}
	}
	return false
}

// match expects valid UTF-8.
func (p *pattern) match(s []byte) bool {
	if p.steps == nil {
		return p.re.Match(s)
	}
	at := 0
	for i := range p.steps {
		step := &p.steps[i]
		n := 0
		for at < len(s) && n != step.max {
			r, size := rune(s[at]), 1
			if r >= utf8.RuneSelf {
				r, size = utf8.DecodeRune(s[at:])
			}
			if !step.has(r) {
				break
			}
			at += size
			n++
		}
		if n < step.min {
			return false
		}
	}
	return at == len(s)
}
