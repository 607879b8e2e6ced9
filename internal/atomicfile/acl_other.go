//go:build !linux

package atomicfile

import "os"

func handOnACL(*os.File, string) bool { return true }
