/* A preload that moves CLOCK_REALTIME only. $WALL_FILE holds one line: `shift SECONDS`, `drift PPM` (from when
   the machine was booted), or `frozen SECONDS` (since the epoch). All other clocks stay as they are, which is
   what distinguishes it from libfaketime. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

static double moved(double real_s) {
    char text[64] = "", word[16] = "";
    double value = 0;
    const char *path = getenv("WALL_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return real_s;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0 || sscanf(text, "%15s %lf", word, &value) != 2) return real_s;
    if (word[0] == 'f') return value;
    if (word[0] == 's') return real_s + value;
    struct timespec up;
    syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &up);
    return real_s + value * 1e-6 * (up.tv_sec + up.tv_nsec / 1e9);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        double shown_s = moved(now->tv_sec + now->tv_nsec / 1e9);
        now->tv_sec = (time_t)shown_s;
        now->tv_nsec = (long)((shown_s - (double)now->tv_sec) * 1e9);
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec fine;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (now) { now->tv_sec = fine.tv_sec; now->tv_usec = fine.tv_nsec / 1000; }
    return 0;
}

time_t time(time_t *out) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (out) *out = fine.tv_sec;
    return fine.tv_sec;
}
