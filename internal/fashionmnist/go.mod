module github.com/posneg/pnm/internal/fashionmnist

go 1.26.0
