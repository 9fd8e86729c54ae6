/* Preloaded into a server: each sync of a file takes SYNC_MICROSECONDS more, as on a disk that is slower. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int slowly(const char *name, int file)
{
    int (*sync_file)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *microseconds = getenv("SYNC_MICROSECONDS");
    usleep(microseconds ? (useconds_t)atoi(microseconds) : 0);
    return sync_file(file);
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
