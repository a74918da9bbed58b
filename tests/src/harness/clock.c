/* A wall clock that can be set wrong for one process, while it runs. Loaded with LD_PRELOAD; the file
   that CLOCK_OFFSET names holds three numbers of eight bytes: how many seconds it is ahead, how often it
   was read while it was wrong, and, if it runs twice as fast, since which nanosecond of the right clock.

   The monotonic clock stays right, as on real machines. Waits until a moment of the wall clock wait as
   long as they meant to: what the caller added the offset to, we take it off from. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

/* Moments later than this are of the wall clock: no machine has been up for as long. */
#define WALL_CLOCK_MIN 1000000000

static int64_t none[3];
static volatile int64_t *shared = none;

static int64_t ahead(void) {
    return __atomic_load_n(&shared[0], __ATOMIC_RELAXED);
}

static int64_t fast_since(void) {
    return __atomic_load_n(&shared[2], __ATOMIC_RELAXED);
}

static int64_t nanoseconds(const struct timespec *moment) {
    return moment->tv_sec * 1000000000LL + moment->tv_nsec;
}

static void put(struct timespec *moment, int64_t nanoseconds) {
    moment->tv_sec = nanoseconds / 1000000000LL;
    moment->tv_nsec = nanoseconds % 1000000000LL;
}

static void *find(const char *name, const char *version) {
    void *found = version ? dlvsym(RTLD_NEXT, name, version) : NULL;
    return found ? found : dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) shared = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = find("clock_gettime", NULL);
    int failed = real(clock, now);
    int64_t by = ahead(), since = fast_since();
    if (!failed && (by || since) && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        if (since) put(now, 2 * nanoseconds(now) - since);
        now->tv_sec += by;
        __atomic_fetch_add(&shared[1], 1, __ATOMIC_RELAXED);
    }
    return failed;
}

int timespec_get(struct timespec *now, int base) {
    if (base != TIME_UTC || clock_gettime(CLOCK_REALTIME, now)) return 0;
    return base;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

static struct timespec truly(const struct timespec *moment) {
    struct timespec true_moment = *moment;
    if (true_moment.tv_sec <= WALL_CLOCK_MIN) return true_moment;
    true_moment.tv_sec -= ahead();
    int64_t since = fast_since();
    if (since) put(&true_moment, since + (nanoseconds(&true_moment) - since) / 2);
    return true_moment;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    /* The name without a version is that of another, ancient structure. */
    if (!real) real = find("pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec moment = truly(until);
    return real(condition, mutex, &moment);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    static int (*real)(sem_t *, const struct timespec *);
    if (!real) real = find("sem_timedwait", NULL);
    struct timespec moment = truly(until);
    return real(semaphore, &moment);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    if (!real) real = find("pthread_mutex_timedlock", NULL);
    struct timespec moment = truly(until);
    return real(mutex, &moment);
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    if (!real) real = find("cnd_timedwait", NULL);
    struct timespec moment = truly(until);
    return real(condition, mutex, &moment);
}
