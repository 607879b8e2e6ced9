module github.com/posneg/pnm/adapters/gomlx/example

go 1.26.0

replace (
	github.com/posneg/pnm => ../../..
	github.com/posneg/pnm/adapters/gomlx => ..
	github.com/posneg/pnm/internal/fashionmnist => ../../../internal/fashionmnist
)

require (
	github.com/gomlx/compute v0.0.0-20260716164435-04857206aff7
	github.com/gomlx/gomlx v0.28.0
	github.com/posneg/pnm v0.0.0
	github.com/posneg/pnm/adapters/gomlx v0.0.0-00010101000000-000000000000
	github.com/posneg/pnm/internal/fashionmnist v0.0.0-00010101000000-000000000000
)

require (
	github.com/go-logr/logr v1.4.3 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/klauspost/cpuid/v2 v2.4.2 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	golang.org/x/exp v0.0.0-20260410095643-746e56fc9e2f // indirect
	golang.org/x/sys v0.49.0 // indirect
	k8s.io/klog/v2 v2.140.0 // indirect
)
