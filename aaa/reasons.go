package aaa

import (
	"wispgate/aaa/dict"
	"wispgate/edge"
)

// Reason codes of the decision. Allowing ones come first.
const (
	CodeActive            = "active"
	CodeGrace             = "grace"
	CodeQuotaUsed         = "quota_used"
	CodeExpired           = "expired"
	CodeSuspendedUnpaid   = "suspended_unpaid"
	CodeSuspendedAdmin    = "suspended_admin"
	CodeSuspendedFraud    = "suspended_fraud"
	CodeSuspendedCustomer = "suspended_customer"
	CodeNotActive         = "not_active"
	CodeNoService         = "no_service"
	CodeTerminated        = "terminated"
	CodeLocked            = "login_locked"
	CodeRevoked           = "login_revoked"
	CodeNotYetValid       = "login_not_yet_valid"
	CodeLoginExpired      = "login_expired"
	CodePolicyMissing     = "policy_missing"
	CodeNASNotAllowed     = "nas_not_allowed"
	CodeMACMismatch       = "mac_mismatch"
)

// decisionReasons are the words of the decision's codes. RADIUS, explain, the API and the field app show the same.
var decisionReasons = []edge.Reason{
	{Code: CodeActive, Says: "The service is active", Fix: "Nothing to do; if the device is offline, look at its radio and its password"},
	{Code: CodeGrace, Says: "The paid time is over, and the grace period runs", Fix: "Take the payment before the grace ends"},
	{Code: CodeQuotaUsed, Says: "The allowance is used up", Fix: "Sell a top-up, or wait for the next period"},
	{Code: CodeExpired, Says: "The paid time and its grace are over", Fix: "Take the payment; service is back in seconds, uplink or not"},
	{Code: CodeSuspendedUnpaid, Says: "Suspended: unpaid", Fix: "Take the payment here; service is back in seconds, uplink or not"},
	{Code: CodeSuspendedAdmin, Says: "Suspended by the office", Fix: "Ask the office to clear the suspension"},
	{Code: CodeSuspendedFraud, Says: "Suspended for suspected misuse", Fix: "Ask the office; do not reconnect it by hand"},
	{Code: CodeSuspendedCustomer, Says: "Paused at the subscriber's wish", Fix: "Resume the subscription when the subscriber asks for it"},
	{Code: CodeNotActive, Says: "The subscription is not activated yet", Fix: "Activate the subscription"},
	{Code: CodeNoService, Says: "The login belongs to no subscription that this node knows", Fix: "Check the subscription; activate it or move the login"},
	{Code: CodeTerminated, Says: "The subscription is terminated", Fix: "Sell a new subscription and give it a login"},
	{Code: CodeLocked, Says: "The login is locked", Fix: "Unlock it when the cause is settled"},
	{Code: CodeRevoked, Says: "The login is revoked", Fix: "Create a new login; a revoked one never comes back"},
	{Code: CodeNotYetValid, Says: "The login is not valid yet", Fix: "Wait for its first day, or change valid_from"},
	{Code: CodeLoginExpired, Says: "The login's last day is over", Fix: "Change valid_until, or create a new login"},
	{Code: CodePolicyMissing, Says: "The plan names no policy that exists", Fix: "Set the plan's policy to one that exists"},
	{Code: CodeNASNotAllowed, Says: "The login may not come through this router", Fix: "Add the router to the login's allowed_nas, or connect at the right tower"},
	{Code: CodeMACMismatch, Says: "A different device than the one registered", Fix: "If it was swapped, register the new one: rebind the login"},
}

// Reasons of the commands.
var (
	reasonLoginTaken         = edge.Reason{Code: "login_taken", Says: "Another credential already has this login", Fix: "Use another login, or change the credential that has it"}
	reasonTooManyCredentials = edge.Reason{Code: "too_many_credentials", Says: "The subscription has as many logins as it may", Fix: "Use another subscription; revoked logins count, too"}
	reasonCredentialRevoked  = edge.Reason{Code: "credential_revoked", Says: "The login is revoked, so it cannot change any more", Fix: "Create a new login"}
)

var commandReasons = []edge.Reason{reasonLoginTaken, reasonTooManyCredentials, reasonCredentialRevoked, dict.ErrPolicy}

// reasonFor returns the words of a decision's code.
func reasonFor(code string) edge.Reason {
	for _, r := range decisionReasons {
		if r.Code == code {
			return r
		}
	}
	return edge.Reason{Code: code}
}
