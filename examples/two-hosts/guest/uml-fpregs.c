/*
 * Lets User-Mode Linux kernels before 6.13 run on hosts with a large XSAVE area (AMX: 11008 bytes).
 *
 * Such a kernel keeps floating-point state in a buffer of 2696 bytes and hands exactly that much to
 * ptrace(PTRACE_SETREGSET, NT_X86_XSTATE). The host accepts nothing but the full size and answers EFAULT. This library,
 * preloaded, stands between the two: a short area is padded with zeros to the size that the host itself reports. The
 * missing part is state that the guest can never have enabled.
 *
 *     cc -O2 -shared -fPIC -o uml-fpregs.so uml-fpregs.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>

enum { GETREGSET = 0x4204, SETREGSET = 0x4205, XSTATE = 0x202 };

typedef long ptrace_call(int request, int pid, void *address, void *data);

static long set_xstate(ptrace_call *real, int pid, const struct iovec *given)
{
	static char area[1 << 16];
	struct iovec whole = { area, sizeof(area) };

	if (real(GETREGSET, pid, (void *)XSTATE, &whole) < 0)
		return -1;
	if (given->iov_len >= whole.iov_len)
		return real(SETREGSET, pid, (void *)XSTATE, (void *)given);
	memcpy(area, given->iov_base, given->iov_len);
	memset(area + given->iov_len, 0, whole.iov_len - given->iov_len);
	return real(SETREGSET, pid, (void *)XSTATE, &whole);
}

long ptrace(int request, ...)
{
	static ptrace_call *real;
	va_list rest;

	va_start(rest, request);
	int pid = va_arg(rest, int);
	void *address = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);
	if (!real)
		real = (ptrace_call *)dlsym(RTLD_NEXT, "ptrace");
	if (request == SETREGSET && address == (void *)XSTATE)
		return set_xstate(real, pid, data);
	return real(request, pid, address, data);
}
