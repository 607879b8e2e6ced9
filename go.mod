module github.com/posneg/pnm

go 1.26.0
