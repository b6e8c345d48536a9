package main

import (
	"github.com/3XX0/pooly"
	"github.com/redis/go-redis/v9"
)

// The line of the README about go-redis. A test in docs compares them.
func readme(s *pooly.Service) *redis.Client {
	client := redis.NewClient(&redis.Options{Dialer: s.DialContext, MaxRetries: 1})
	return client
}

var _ = readme
