//go:build !(amd64 || arm64) || purego

package pnm

func yardsticks[T Float](*problem[T], tier) []yardstick { return nil }
