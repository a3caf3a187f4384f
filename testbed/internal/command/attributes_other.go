//go:build unix && !linux

package command

import "syscall"

// attributes puts a child in a process group of its own.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
