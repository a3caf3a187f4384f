package command

import "syscall"

// attributes puts a child in a process group of its own, and has the kernel end
// it when we die.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
