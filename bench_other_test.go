//go:build !amd64 || purego

package pnm

func yardsticks[T Float](*problem[T], tier) []yardstick { return nil }
