/* A stand-in for a machine that was copied with its memory: every start of the program is the same one. Of the random numbers those
   of 16 bytes alone are fixed, as the name of a start has. */
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

ssize_t getrandom(void *buffer, size_t length, unsigned flags) {
    if (length != 16) return syscall(SYS_getrandom, buffer, length, flags);
    memset(buffer, 7, length);
    return length;
}
