package billing_test

import (
	"errors"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"wispgate/billing"
	"wispgate/edge"
)

// exact is a × num ÷ denom by arbitrary precision, rounded as the mode says.
func exact(a, num, denom int64, mode billing.Rounding) *big.Int {
	p := new(big.Int).Mul(big.NewInt(a), big.NewInt(num))
	neg := p.Sign() < 0
	quo, rem := new(big.Int).QuoRem(p.Abs(p), big.NewInt(denom), new(big.Int))
	switch rem.Lsh(rem, 1).Cmp(big.NewInt(denom)) {
	case 1:
		quo.Add(quo, big.NewInt(1))
	case 0:
		if mode == billing.HalfUp || quo.Bit(0) == 1 {
			quo.Add(quo, big.NewInt(1))
		}
	}
	if neg {
		quo.Neg(quo)
	}
	return quo
}

func TestMulDivIsExactOrAnError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		small := rapid.Int64Range(-1000, 1000)
		a, num := rapid.OneOf(rapid.Int64(), small).Draw(t, "a"), rapid.OneOf(rapid.Int64(), small).Draw(t, "num")
		denom := rapid.OneOf(rapid.Int64Min(1), rapid.Int64Range(1, 1000)).Draw(t, "denom")
		mode := rapid.SampledFrom([]billing.Rounding{billing.HalfUp, billing.HalfEven}).Draw(t, "mode")
		want := exact(a, num, denom, mode)
		fits := new(big.Int).Abs(want).Cmp(big.NewInt(billing.MaxMinor)) <= 0
		got, err := billing.MulDiv(a, num, denom, mode)
		if fits != (err == nil) {
			t.Fatalf("%d × %d ÷ %d: got error %v, want the result %s to fit: %t", a, num, denom, err, want, fits)
		}
		if err == nil && want.Int64() != got {
			t.Fatalf("%d × %d ÷ %d %s: got %d, want %s", a, num, denom, mode, got, want)
		}
		if mirror, err2 := billing.MulDiv(a, -num, denom, mode); num != -num && err == nil && (err2 != nil || mirror != -got) {
			t.Fatalf("the credit of %d is %d", got, mirror)
		}
	})
}

func TestHalvesGoWhereTheModeSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, num, denom, up, even int64
	}{
		{1, 1, 2, 1, 0}, {3, 1, 2, 2, 2}, {5, 1, 2, 3, 2}, {-1, 1, 2, -1, 0}, {-5, 1, 2, -3, -2}, {10, 1, 3, 3, 3}, {20, 1, 3, 7, 7},
		{billing.MaxMinor, 1, 1, billing.MaxMinor, billing.MaxMinor}, {0, 5, 7, 0, 0},
	} {
		up, _ := billing.MulDiv(c.a, c.num, c.denom, billing.HalfUp)
		even, _ := billing.MulDiv(c.a, c.num, c.denom, billing.HalfEven)
		if up != c.up || even != c.even {
			t.Errorf("%d × %d ÷ %d: got %d and %d, want %d and %d", c.a, c.num, c.denom, up, even, c.up, c.even)
		}
	}
}

func TestMoneyNeverWrapsAndNeverMixes(t *testing.T) {
	t.Parallel()
	usd := func(n int64) billing.Money { return billing.Money{AmountMinor: n, Currency: "USD"} }
	overflow, currency := billing.ErrMoneyOverflow.Error(edge.Invalid), billing.ErrMoneyCurrency.Error(edge.Invalid)
	for name, c := range map[string]struct {
		do   func() (billing.Money, error)
		want error
	}{
		"beyond the largest":       {func() (billing.Money, error) { return usd(billing.MaxMinor).Add(usd(1)) }, overflow},
		"beyond the smallest":      {func() (billing.Money, error) { return usd(-billing.MaxMinor).Sub(usd(1)) }, overflow},
		"two currencies":           {func() (billing.Money, error) { return usd(1).Add(billing.Money{AmountMinor: 1, Currency: "JPY"}) }, currency},
		"a denominator of zero":    {func() (billing.Money, error) { return usd(1).Scale(1, 0, billing.HalfUp) }, overflow},
		"a negative denominator":   {func() (billing.Money, error) { return usd(1).Scale(1, -1, billing.HalfUp) }, overflow},
		"a product of 126 bits":    {func() (billing.Money, error) { return usd(billing.MaxMinor).Scale(1<<62, 1, billing.HalfUp) }, overflow},
		"a quotient of 64 bits":    {func() (billing.Money, error) { return usd(1<<62).Scale(8, 2, billing.HalfUp) }, overflow},
		"within bounds is allowed": {func() (billing.Money, error) { return usd(billing.MaxMinor - 1).Add(usd(1)) }, nil},
	} {
		if _, err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestPartsOfASplitSumExactlyAndAreFair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := billing.Money{AmountMinor: rapid.Int64Range(-billing.MaxMinor, billing.MaxMinor).Draw(t, "amount"), Currency: "KWD"}
		weights := rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 24).Draw(t, "weights")
		var total int64
		for _, w := range weights {
			total += w
		}
		parts, err := m.Split(weights)
		if total == 0 {
			if err == nil {
				t.Fatal("weights of nothing were accepted")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		for i, p := range parts {
			sum += p.AmountMinor
			share := new(big.Int).Mul(big.NewInt(m.AmountMinor), big.NewInt(weights[i]))
			off := new(big.Int).Sub(new(big.Int).Mul(big.NewInt(p.AmountMinor), big.NewInt(total)), share)
			if off.CmpAbs(big.NewInt(total)) >= 0 {
				t.Fatalf("part %d is a whole unit off its share", i)
			}
		}
		if sum != m.AmountMinor {
			t.Fatalf("parts sum to %d, want %d", sum, m.AmountMinor)
		}
	})
}

func TestCurrenciesHaveTheirDecimals(t *testing.T) {
	t.Parallel()
	for decimals, codes := range [][]billing.Currency{
		0: {"JPY", "KRW", "VND", "UGX", "RWF", "XOF", "XAF", "CLP"}, 2: {"USD", "EUR", "ZAR", "KES", "NGN", "ZWG"},
		3: {"KWD", "BHD", "OMR", "TND", "JOD", "IQD", "LYD"}, 4: {"CLF", "UYW"},
	} {
		for _, c := range codes {
			if got, ok := c.Exponent(); !ok || got != decimals {
				t.Errorf("%s: got %d decimals (known: %t), want %d", c, got, ok, decimals)
			}
		}
	}
	for _, c := range []billing.Currency{"", "usd", "XXX", "XAU", "US", "USDT"} {
		if _, ok := c.Exponent(); ok {
			t.Errorf("%q was taken for a currency", c)
		}
	}
}
