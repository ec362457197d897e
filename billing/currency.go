package billing

import "strings"

// Currency is an ISO 4217 alphabetic code.
type Currency string

// currencies are the codes of ISO 4217 that are money in circulation or of account, by the number of decimals of the minor unit.
// Funds, metals and test codes are left out.
var currencies = func() map[Currency]int {
	m := map[Currency]int{}
	for decimals, codes := range []string{
		0: `BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF`,
		2: `AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP
			CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR
			KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN
			PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD
			TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG`,
		3: `BHD IQD JOD KWD LYD OMR TND`,
		4: `CLF UYW`,
	} {
		for c := range strings.FieldsSeq(codes) {
			m[Currency(c)] = decimals
		}
	}
	return m
}()

// Exponent is the number of decimals of the currency's minor unit; ok is false for what is not a currency.
func (c Currency) Exponent() (decimals int, ok bool) {
	decimals, ok = currencies[c]
	return decimals, ok
}
