/*
 * Faults of disk and clock for one process, by LD_PRELOAD: what fails is said in FAULTS_CONTROL, a file of 64-bit numbers
 * in the order of enum control that tests write to while the process runs. Only files below FAULTS_FOLDER are concerned.
 * With FAULTS_TRACE every change of these files is recorded there, so that tests/support/power.py can rebuild what a power cut
 * may leave. Shared memory (-shm) is not recorded: SQLite makes it anew.
 *
 * Compiled by tests/support/faults.py. Linux, glibc.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum control { KINDS, ERROR, PASSING, FAILING, SEEN, FAILED, SEQUENCE, CLOCK_SECONDS, PARTIAL, FIELDS };
enum kind { WRITE = 1, SYNC = 2, TRUNCATE = 4, OPEN = 8, NAME = 16, READ = 32 };
enum { DESCRIPTORS = 65536, PATH = 1024 };

static volatile int64_t *control;
static char folder[PATH];
static char *names[DESCRIPTORS]; /* of open files below the folder */
static int trace = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL"), *below = getenv("FAULTS_FOLDER"), *to = getenv("FAULTS_TRACE");
    if (!path || !below) return;
    REAL(int, "open", const char *, int, ...);
    int opened = real(path, O_RDWR | O_CLOEXEC);
    void *shared = opened < 0 ? MAP_FAILED
                              : mmap(NULL, FIELDS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
    if (shared == MAP_FAILED) abort();
    close(opened);
    strncpy(folder, below, PATH - 1);
    if (to && (trace = real(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0) abort();
    control = shared;
}

/* Whether this operation is to fail; errno is set then. */
static int fails(enum kind kind)
{
    int failing = 0;
    if (!(control[KINDS] & kind)) return 0;
    pthread_mutex_lock(&turn);
    control[SEEN]++;
    if (control[PASSING] > 0) control[PASSING]--;
    else if (control[FAILING] > 0) {
        control[FAILING]--;
        control[FAILED]++;
        failing = 1;
    }
    pthread_mutex_unlock(&turn);
    if (failing) errno = (int)control[ERROR];
    return failing;
}

/* The name below the folder, `.` for the folder itself, else NULL; to be freed. */
static char *concerned(const char *path)
{
    char whole[2 * PATH] = "";
    if (!control || !path) return NULL;
    if (path[0] != '/') {
        if (!getcwd(whole, PATH)) return NULL;
        strcat(whole, "/");
    }
    strncat(whole, path, PATH - 1);
    size_t length = strlen(folder);
    if (strncmp(whole, folder, length) != 0) return NULL;
    return whole[length] == '/' ? strdup(whole + length + 1) : whole[length] ? NULL : strdup(".");
}

static char *name_of(int descriptor)
{
    return control && descriptor >= 0 && descriptor < DESCRIPTORS ? names[descriptor] : NULL;
}

static int recorded(const char *name)
{
    size_t length = strlen(name);
    return trace >= 0 && !(length > 4 && strcmp(name + length - 4, "-shm") == 0);
}

/* One record: kind, offset, lengths of name and data, name, data. The caller holds the turn. */
static void record(char kind, const char *name, int64_t offset, const void *data, int64_t length)
{
    struct { int64_t kind, offset, name, data; } head = {kind, offset, (int64_t)strlen(name), length};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)name, strlen(name)}, {(void *)data, (size_t)length}};
    int before = errno;
    if (writev(trace, parts, 3) != (ssize_t)(sizeof head) + head.name + length) abort();
    control[SEQUENCE]++;
    errno = before;
}

static int opened(const char *path, int flags, mode_t mode)
{
    REAL(int, "open", const char *, int, ...);
    char *name = concerned(path);
    if (!name) return real(path, flags, mode);
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (writes && fails(OPEN)) {
        free(name);
        return -1;
    }
    pthread_mutex_lock(&turn);
    int made = (flags & O_CREAT) && access(path, F_OK) != 0;
    int descriptor = real(path, flags, mode);
    if (descriptor >= 0 && descriptor < DESCRIPTORS) {
        if (recorded(name) && made) record('C', name, 0, NULL, 0);
        if (recorded(name) && (flags & O_TRUNC) && !made) record('T', name, 0, NULL, 0);
        names[descriptor] = name;
    } else free(name);
    pthread_mutex_unlock(&turn);
    return descriptor;
}

#define OPENS(function) \
    int function(const char *path, int flags, ...) \
    { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

int close(int descriptor)
{
    REAL(int, "close", int);
    char *name = name_of(descriptor);
    if (name) {
        pthread_mutex_lock(&turn);
        names[descriptor] = NULL;
        free(name);
        pthread_mutex_unlock(&turn);
    }
    return real(descriptor);
}

static ssize_t written(int descriptor, const void *data, size_t length, off_t offset)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    char *name = name_of(descriptor);
    if (!name) return real(descriptor, data, length, offset);
    if (fails(WRITE)) {
        if (!control[PARTIAL] || length < 2) return -1;
        length /= 2; /* as a disk that becomes full: a part is taken, the next one fails */
    }
    pthread_mutex_lock(&turn);
    ssize_t done = real(descriptor, data, length, offset);
    if (done > 0 && recorded(name)) record('W', name, offset, data, done);
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset)
{
    return written(descriptor, data, length, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t length, off_t offset)
{
    return written(descriptor, data, length, offset);
}

ssize_t write(int descriptor, const void *data, size_t length)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    char *name = name_of(descriptor);
    if (!name) return real(descriptor, data, length);
    if (fails(WRITE)) return -1;
    pthread_mutex_lock(&turn);
    ssize_t done = real(descriptor, data, length);
    if (done > 0 && recorded(name)) record('W', name, lseek(descriptor, 0, SEEK_CUR) - done, data, done);
    pthread_mutex_unlock(&turn);
    return done;
}

#define READS(function, ...) \
    REAL(ssize_t, function, int, void *, size_t, ##__VA_ARGS__); \
    if (name_of(descriptor) && fails(READ)) return -1

ssize_t read(int descriptor, void *data, size_t length)
{
    READS("read");
    return real(descriptor, data, length);
}

ssize_t pread(int descriptor, void *data, size_t length, off_t offset)
{
    READS("pread64", off_t);
    return real(descriptor, data, length, offset);
}

ssize_t pread64(int descriptor, void *data, size_t length, off_t offset)
{
    READS("pread64", off_t);
    return real(descriptor, data, length, offset);
}

#define CHANGES(function, what, letter, more, passed, offset) \
    int function(int descriptor more) \
    { \
        REAL(int, #function, int more); \
        char *name = name_of(descriptor); \
        if (!name) return real(descriptor passed); \
        if (fails(what)) return -1; \
        pthread_mutex_lock(&turn); \
        int failed = real(descriptor passed); \
        if (!failed && recorded(name)) record(letter, name, offset, NULL, 0); \
        pthread_mutex_unlock(&turn); \
        return failed; \
    }
#define COMMA ,
CHANGES(fsync, SYNC, 'S', , , 0)
CHANGES(fdatasync, SYNC, 'S', , , 0)
CHANGES(ftruncate, TRUNCATE, 'T', COMMA off_t length, COMMA length, length)
CHANGES(ftruncate64, TRUNCATE, 'T', COMMA off_t length, COMMA length, length)

static int renamed(const char *from, const char *to, char letter, int (*change)(const char *, const char *))
{
    char *name = concerned(from), *other = to ? concerned(to) : NULL;
    int failed = -1;
    if (!name) failed = change(from, to);
    else if (!fails(NAME)) {
        pthread_mutex_lock(&turn);
        failed = change(from, to);
        if (!failed && recorded(name)) record(letter, name, 0, other, other ? (int64_t)strlen(other) : 0);
        pthread_mutex_unlock(&turn);
    }
    free(name);
    free(other);
    return failed;
}

static int really_rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    return real(from, to);
}

static int really_unlink(const char *path, const char *nothing)
{
    REAL(int, "unlink", const char *);
    return real(path);
}

static mode_t mode_of_folder;

static int really_mkdir(const char *path, const char *nothing)
{
    REAL(int, "mkdir", const char *, mode_t);
    return real(path, mode_of_folder);
}

int rename(const char *from, const char *to)
{
    return renamed(from, to, 'R', really_rename);
}

int unlink(const char *path)
{
    return renamed(path, NULL, 'U', really_unlink);
}

int mkdir(const char *path, mode_t mode)
{
    mode_of_folder = mode; /* folders are made before there are threads */
    return renamed(path, NULL, 'D', really_mkdir);
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int failed = real(which, now);
    if (!failed && control && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += control[CLOCK_SECONDS];
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    REAL(int, "gettimeofday", struct timeval *restrict, void *restrict);
    int failed = real(now, zone);
    if (!failed && control) now->tv_sec += control[CLOCK_SECONDS];
    return failed;
}

time_t time(time_t *now)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
