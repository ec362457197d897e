package billing

import (
	"math/bits"
	"slices"

	"wispgate/edge"
)

// Money is an amount in the smallest unit of its currency (cents, yen, fils), always together with the currency. It stays within
// ±(2^53−1), which every JSON reader keeps exactly; arithmetic that would leave it is an error, never a wrap.
type Money struct {
	AmountMinor int64    `json:"amount_minor" doc:"Amount in the currency's smallest unit." example:"125000"`
	Currency    Currency `json:"currency" check:"format=currency max=3" doc:"ISO 4217 code." example:"USD"`
}

// MaxMinor is the largest amount in minor units, 2^53−1; the smallest is its negative.
const MaxMinor = 1<<53 - 1

// Rounding says which way half a minor unit goes.
type Rounding string

// The modes of rounding. Both are symmetric around zero, so that a credit is the exact mirror of its charge.
const (
	HalfUp   Rounding = "half_up"   // half goes away from zero
	HalfEven Rounding = "half_even" // half goes to the even neighbour
)

// Values lists the modes, for the schema.
func (Rounding) Values() []string { return []string{"half_up", "half_even"} }

// Reasons of money.
var (
	ErrMoneyOverflow = edge.Reason{Code: "money_overflow", Says: "The amount is larger than an amount may be", Fix: "Use smaller amounts; the bound is 2^53-1 minor units"}
	ErrMoneyCurrency = edge.Reason{Code: "money_currency", Says: "The amounts are not in one known currency", Fix: "Use the same ISO 4217 currency throughout"}
)

// Check refuses an unknown currency and an amount out of bounds; at is the pointer to name.
func (m Money) Check(at string) error {
	if _, ok := m.Currency.Exponent(); !ok {
		return ErrMoneyCurrency.Error(edge.Invalid, edge.Field(at+"/currency", "is not an ISO 4217 code", "use three capital letters such as USD"))
	}
	if m.AmountMinor > MaxMinor || m.AmountMinor < -MaxMinor {
		return ErrMoneyOverflow.Error(edge.Invalid, edge.Field(at+"/amount_minor", "is out of bounds", "use at most 2^53-1 minor units"))
	}
	return nil
}

// Add returns the sum; other currencies and sums out of bounds are errors.
func (m Money) Add(o Money) (Money, error) {
	if m.Currency != o.Currency {
		return Money{}, ErrMoneyCurrency.Error(edge.Invalid)
	}
	sum := m.AmountMinor + o.AmountMinor // two amounts within bounds cannot wrap
	if !inBounds(m.AmountMinor) || !inBounds(o.AmountMinor) || !inBounds(sum) {
		return Money{}, ErrMoneyOverflow.Error(edge.Invalid)
	}
	return Money{sum, m.Currency}, nil
}

// Neg returns the amount with the other sign.
func (m Money) Neg() Money { return Money{-m.AmountMinor, m.Currency} }

// Sub returns the difference; other currencies and differences out of bounds are errors.
func (m Money) Sub(o Money) (Money, error) { return m.Add(o.Neg()) }

// Scale returns the amount times num divided by denom, rounded once: a proration, a tax, a quantity times a unit price. A denominator
// that is not positive, or a result out of bounds, is an error.
func (m Money) Scale(num, denom int64, mode Rounding) (Money, error) {
	n, err := MulDiv(m.AmountMinor, num, denom, mode)
	if err != nil {
		return Money{}, err
	}
	return Money{n, m.Currency}, nil
}

// MulDiv returns a × num ÷ denom rounded once, computed in 128 bits. It is the one place where money is rounded. A denominator that is
// not positive, or a result beyond ±MaxMinor, is an error.
func MulDiv(a, num, denom int64, mode Rounding) (int64, error) {
	if denom <= 0 {
		return 0, ErrMoneyOverflow.Error(edge.Invalid)
	}
	d := uint64(denom)
	hi, lo := bits.Mul64(magnitude(a), magnitude(num))
	if hi >= d {
		return 0, ErrMoneyOverflow.Error(edge.Invalid)
	}
	quo, rem := bits.Div64(hi, lo, d)
	half := rem > d-rem || rem == d-rem && (mode != HalfEven || quo&1 == 1)
	if half && quo <= MaxMinor {
		quo++
	}
	if quo > MaxMinor {
		return 0, ErrMoneyOverflow.Error(edge.Invalid)
	}
	if (a < 0) != (num < 0) {
		return -int64(quo), nil
	}
	return int64(quo), nil
}

// magnitude is |n| also for the smallest int64.
func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

func inBounds(n int64) bool { return n <= MaxMinor && n >= -MaxMinor }

// Split divides the amount in proportion to the weights by the largest remainder: the parts sum exactly to the amount, and equal
// remainders go to the earlier part. Weights are not negative and not all zero.
func (m Money) Split(weights []int64) ([]Money, error) {
	var total int64
	for _, w := range weights {
		if w < 0 || total > MaxMinor-w {
			return nil, ErrMoneyOverflow.Error(edge.Invalid)
		}
		total += w
	}
	if total == 0 || !inBounds(m.AmountMinor) {
		return nil, ErrMoneyOverflow.Error(edge.Invalid)
	}
	parts, rems, order := make([]Money, len(weights)), make([]uint64, len(weights)), make([]int, len(weights))
	left := magnitude(m.AmountMinor)
	for i, w := range weights {
		hi, lo := bits.Mul64(magnitude(m.AmountMinor), uint64(w))
		quo, rem := bits.Div64(hi, lo, uint64(total)) // w ≤ total, so hi < total
		parts[i], rems[i], order[i] = Money{int64(quo), m.Currency}, rem, i
		left -= quo
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case rems[a] > rems[b]:
			return -1
		case rems[a] < rems[b]:
			return 1
		}
		return 0
	})
	for _, i := range order[:left] { // fewer units are left than parts with a remainder
		parts[i].AmountMinor++
	}
	if m.AmountMinor < 0 {
		for i := range parts {
			parts[i] = parts[i].Neg()
		}
	}
	return parts, nil
}
