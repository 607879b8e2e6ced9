package pnmgomlx
