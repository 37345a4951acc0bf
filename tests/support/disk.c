/* A preload that breaks the disk under files whose path contains $DISK_MATCH. $DISK_FILE holds one line:
   `slow SECONDS` (each fsync takes that long), or `fsync ERRNO`, `write ERRNO`, `read ERRNO` (each one fails);
   anything else, or no file, leaves the disk as it is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_ours(int file) {
    char link[64], path[4096];
    const char *match = getenv("DISK_MATCH");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || !match) return 0;
    path[length] = 0;
    return strstr(path, match) != NULL;
}

/* Whether this call has to fail; errno is set then. */
static int fails(const char *call, int file) {
    char text[64] = "", word[16] = "";
    double value = 0;
    const char *path = getenv("DISK_FILE");
    int rule = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY) : -1;
    if (rule < 0) return 0;
    long length = syscall(SYS_read, rule, text, sizeof text - 1);
    syscall(SYS_close, rule);
    if (length <= 0 || sscanf(text, "%15s %lf", word, &value) != 2 || !is_ours(file)) return 0;
    if (!strcmp(word, "slow") && !strcmp(call, "fsync")) usleep((useconds_t)(value * 1e6));
    if (strcmp(word, call)) return 0;
    errno = (int)value;
    return 1;
}

int fsync(int file) { return fails("fsync", file) ? -1 : (int)syscall(SYS_fsync, file); }
int fdatasync(int file) { return fails("fsync", file) ? -1 : (int)syscall(SYS_fdatasync, file); }

ssize_t write(int file, const void *data, size_t size) {
    return fails("write", file) ? -1 : syscall(SYS_write, file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return fails("write", file) ? -1 : syscall(SYS_pwrite64, file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off_t at) { return pwrite(file, data, size, at); }

ssize_t read(int file, void *data, size_t size) {
    return fails("read", file) ? -1 : syscall(SYS_read, file, data, size);
}
ssize_t pread(int file, void *data, size_t size, off_t at) {
    return fails("read", file) ? -1 : syscall(SYS_pread64, file, data, size, at);
}
ssize_t pread64(int file, void *data, size_t size, off_t at) { return pread(file, data, size, at); }
