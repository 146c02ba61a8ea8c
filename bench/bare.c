/* Writes a line and ends, without a C library, whose start asks the processor what it is: each of these questions
 * (CPUID) takes a virtual machine some microseconds, all of them half of what a connection costs.
 */
#include <sys/syscall.h>
#include <unistd.h>

void _start(void)
{
	syscall(SYS_write, 1, "hello\n", 6);
	syscall(SYS_exit_group, 0);
}
