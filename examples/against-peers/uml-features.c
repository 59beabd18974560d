/*
 * Lets User-Mode Linux be a guest of a back end that offers more than it serves.
 *
 * DPDK's vhost library offers a control queue that it expects the VMM to serve. User-Mode Linux has no VMM: its driver
 * waits on that queue for ever. This library, preloaded, clears the bits in UML_FEATURES_HIDDEN (a hexadecimal number) from
 * the answers to GET_FEATURES, which User-Mode Linux reads in two steps: the header of 12 bytes, then the 8 bytes.
 *
 *     cc -O2 -shared -fPIC -o uml-features.so uml-features.c
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GET_FEATURES = 1, HEADER = 12 };

ssize_t read(int fd, void *into, size_t length)
{
	static int asked = -1;
	ssize_t got = syscall(SYS_read, fd, into, length);
	const char *hidden = getenv("UML_FEATURES_HIDDEN");
	uint32_t request;
	uint64_t features;

	if (!hidden)
		return got;
	if (length == HEADER && got == HEADER) {
		memcpy(&request, into, sizeof(request));
		asked = request == GET_FEATURES ? fd : -1;
	} else if (fd == asked && length == sizeof(features) && got == sizeof(features)) {
		memcpy(&features, into, sizeof(features));
		features &= ~strtoull(hidden, NULL, 16);
		memcpy(into, &features, sizeof(features));
		asked = -1;
	}
	return got;
}
