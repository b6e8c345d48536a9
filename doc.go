// Package pooly keeps pools of connections to the hosts of a service, and chooses the host of each call with a
// multi-armed bandit that learns from every call before.
package pooly
