/* test_hooks.c - real calls of this program, timed through its own slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hooks/hooks.h"
#include "lg_clock.h"

#define MS LG_NS_PER_MS

extern ssize_t __read_chk(int fd, void *buf, size_t n, size_t room);

/* What one test sees; `calls` is attached to its thread. */
static struct rig {
    struct lg_calls calls;
    uint64_t enters;
    uint64_t leaves;
    uint64_t entered_ns;
    uint64_t left_ns;
    int n_events;
    struct lg_call slow;
    uint32_t slow_count;
    char folder[64];
} rig;

static void
on_enter(struct lg_calls *calls, uint64_t now_ns)
{
    assert_ptr_equal(calls, &rig.calls);
    rig.enters++;
    rig.entered_ns = now_ns;
}

static void
on_leave(struct lg_calls *calls, uint64_t now_ns, int n_events)
{
    assert_ptr_equal(calls, &rig.calls);
    rig.leaves++;
    rig.left_ns = now_ns;
    rig.n_events = n_events;
}

static void
on_slow(struct lg_calls *calls, const struct lg_call *call)
{
    assert_ptr_equal(calls, &rig.calls);
    rig.slow = *call;
    rig.slow_count++;
    errno = 12345;                      /* the caller must not see it */
}

static int
setup(void **state)
{
    (void)state;
    memset(&rig, 0, sizeof(rig));
    strcpy(rig.folder, "/tmp/lg_hooks_XXXXXX");
    if (mkdtemp(rig.folder) == NULL) {
        return -1;
    }
    lg_calls_init(&rig.calls);
    rig.calls.poll_enter = on_enter;
    rig.calls.poll_leave = on_leave;
    rig.calls.slow_call = on_slow;
    rig.calls.slow_ns = 2 * MS;
    char reason[128] = "";
    return lg_hooks_install(reason, sizeof(reason));
}

static int
teardown(void **state)
{
    (void)state;
    lg_calls_attach(NULL);
    lg_hooks_set_gil_range(0, 0);
    lg_hooks_uninstall();
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", rig.folder);
    return system(command);
}

static char *
path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", rig.folder, name);
    return path;
}

static const char *
longest(void)
{
    static char text[160];
    lg_calls_longest(&rig.calls, 0, text, sizeof(text));
    return text;
}

static uint64_t
longest_ns(void)
{
    char text[160];
    return lg_calls_longest(&rig.calls, 0, text, sizeof(text));
}

/* Something that another thread, which is not attached, does a few ms after the
 * test's thread has begun a call. */
struct later {
    pthread_t thread;
    void (*act)(void *arg);
    void *arg;
};

static void
await_call(void)
{
    uint64_t since;
    enum lg_call_kind kind;
    int fd;
    uint64_t deadline = lg_now_ns() + 10 * LG_NS_PER_S;
    while (!lg_calls_now(&rig.calls, &since, &kind, &fd) && lg_now_ns() < deadline) {
        sched_yield();
    }
}

static void
sleep_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static void *
run_later(void *arg)
{
    struct later *later = arg;
    await_call();
    sleep_ms(6);
    later->act(later->arg);
    return NULL;
}

static void
start_later(struct later *later, void (*act)(void *), void *arg)
{
    later->act = act;
    later->arg = arg;
    assert_int_equal(pthread_create(&later->thread, NULL, run_later, later), 0);
}

static void
join(struct later *later)
{
    lg_calls_attach(NULL);
    assert_int_equal(pthread_join(later->thread, NULL), 0);
}

static void
write_a_byte(void *arg)
{
    assert_int_equal(write(*(int *)arg, "x", 1), 1);
}

/* ---- kinds, classes, details --------------------------------------------------- */

static void
a_sleep_is_io_of_its_duration(void **state)
{
    (void)state;
    lg_calls_attach(&rig.calls);
    uint64_t start = lg_now_ns();
    sleep_ms(5);
    uint64_t wall = lg_now_ns() - start;
    assert_string_equal(longest(), "sleep");
    assert_in_range(longest_ns(), 5 * MS, wall);
    assert_int_equal(rig.calls.io_ns, longest_ns());
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
    assert_int_equal(rig.calls.class_calls[LG_CALL_CLASS_IO], 1);
    assert_int_equal(rig.slow_count, 1);
    assert_int_equal(rig.slow.dur_ns, longest_ns());
}

static void
short_calls_are_counted_and_summed_but_not_kept(void **state)
{
    (void)state;
    char byte;
    int fds[2];
    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    lg_calls_attach(&rig.calls);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(read(fds[0], &byte, 1), -1);
        assert_int_equal(errno, EAGAIN);
    }
    lg_calls_attach(NULL);
    assert_int_equal(rig.calls.class_calls[LG_CALL_CLASS_IO], 100);
    assert_in_range(rig.calls.io_ns, 100, 100 * MS);
    close(fds[0]);
    close(fds[1]);
}

/* A connected pair over loopback; the text of the far end's address. */
static void
tcp_pair(int fds[2], char *peer, size_t size)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, len), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&addr, len), 0);
    fds[1] = accept(listener, NULL, NULL);
    assert_true(fds[1] >= 0);
    snprintf(peer, size, "127.0.0.1:%u", ntohs(addr.sin_port));
    close(listener);
}

static void
a_receive_names_its_peer(void **state)
{
    (void)state;
    int fds[2];
    char peer[64];
    char byte;
    char expected[160];
    struct later later;
    tcp_pair(fds, peer, sizeof(peer));
    start_later(&later, write_a_byte, &fds[1]);
    lg_calls_attach(&rig.calls);
    assert_int_equal(recv(fds[0], &byte, 1, 0), 1);
    join(&later);
    snprintf(expected, sizeof(expected), "recv fd %d <- %s", fds[0], peer);
    assert_string_equal(longest(), expected);
    assert_in_range(longest_ns(), 2 * MS, 1000 * MS);
    assert_int_equal(rig.slow.fd, fds[0]);
    assert_string_equal(rig.slow.detail, peer);
    close(fds[0]);
    close(fds[1]);
}

static void
a_poll_on_one_socket_names_its_peer(void **state)
{
    (void)state;
    int fds[2];
    char peer[64];
    char expected[160];
    struct later later;
    tcp_pair(fds, peer, sizeof(peer));
    start_later(&later, write_a_byte, &fds[1]);
    lg_calls_attach(&rig.calls);
    assert_int_equal(poll(&(struct pollfd){.fd = fds[0], .events = POLLIN}, 1, 10000), 1);
    join(&later);
    snprintf(expected, sizeof(expected), "poll fd %d %s", fds[0], peer);
    assert_string_equal(longest(), expected);
    assert_int_equal(rig.enters, 0);
    close(fds[0]);
    close(fds[1]);
}

/* A full backlog drops the SYN, so that connect() waits for its time-out. */
static void
a_connect_names_the_address_it_was_asked_for(void **state)
{
    (void)state;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, len), 0);
    assert_int_equal(listen(listener, 0), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    int fds[8];
    int blocked = -1;
    for (int i = 0; i < 8; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        struct timeval t = {.tv_usec = 20000};
        setsockopt(fds[i], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
        lg_calls_attach(&rig.calls);
        int err = connect(fds[i], (struct sockaddr *)&addr, len) == 0 ? 0 : errno;
        lg_calls_attach(NULL);
        if (err == EINPROGRESS && blocked < 0) {
            blocked = fds[i];
            char expected[160];
            snprintf(expected, sizeof(expected), "connect fd %d -> 127.0.0.1:%u", blocked,
                     ntohs(addr.sin_port));
            assert_string_equal(longest(), expected);
            assert_in_range(longest_ns(), 15 * MS, 5000 * MS);
        }
    }
    assert_true(blocked >= 0);
    for (int i = 0; i < 8; i++) {
        close(fds[i]);
    }
    close(listener);
}

static void
a_unix_socket_is_named_by_its_path(void **state)
{
    (void)state;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/sock", rig.folder);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(listener, 1), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    struct timeval t = {.tv_usec = 5000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
    char byte;
    lg_calls_attach(&rig.calls);
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    lg_calls_attach(NULL);
    char expected[256];
    snprintf(expected, sizeof(expected), "recv fd %d <- unix:%s/sock", fd, rig.folder);
    assert_string_equal(longest(), expected);
    close(fd);
    close(listener);
}

static void
a_transfer_that_cannot_wait_is_in_no_sum(void **state)
{
    (void)state;
    size_t size = 64 << 20;             /* takes longer than a millisecond */
    char *big = malloc(size);
    int fd = open("/dev/zero", O_RDONLY | O_NONBLOCK);
    lg_calls_attach(&rig.calls);
    assert_int_equal(read(fd, big, size), size);
    lg_calls_attach(NULL);
    assert_string_equal(longest(), "");
    assert_int_equal(rig.calls.io_ns, 0);
    assert_int_equal(rig.slow_count, 0);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_READ], 1);
    close(fd);
    free(big);
}

static void
reading_a_pipe_is_io_and_reading_a_file_is_disk(void **state)
{
    (void)state;
    int fds[2];
    char byte;
    struct later later;
    assert_int_equal(pipe(fds), 0);
    start_later(&later, write_a_byte, &fds[1]);
    lg_calls_attach(&rig.calls);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    join(&later);
    char expected[256];
    snprintf(expected, sizeof(expected), "read fd %d pipe", fds[0]);
    assert_string_equal(longest(), expected);
    assert_int_equal(rig.slow.class, LG_CALL_CLASS_IO);

    size_t size = 64 << 20;             /* takes longer than a millisecond */
    char *big = calloc(1, size);
    int fd = open(path_of("big"), O_RDWR | O_CREAT, 0600);
    assert_int_equal(write(fd, big, size), size);
    lseek(fd, 0, SEEK_SET);
    lg_calls_reset_longest(&rig.calls);
    lg_calls_attach(&rig.calls);
    uint64_t io_ns = rig.calls.io_ns;
    assert_int_equal(__read_chk(fd, big, size, size), size);
    lg_calls_attach(NULL);
    snprintf(expected, sizeof(expected), "read fd %d %s/big", fd, rig.folder);
    assert_string_equal(longest(), expected);
    assert_int_equal(rig.calls.disk_ns, longest_ns());
    assert_int_equal(rig.calls.io_ns, io_ns);
    free(big);
    close(fd);
    close(fds[0]);
    close(fds[1]);
}

static void
open_the_other_end(void *arg)
{
    close(open(arg, O_WRONLY));
}

static void
an_open_names_its_path_and_a_long_one_by_its_end(void **state)
{
    (void)state;
    char deep[200];
    snprintf(deep, sizeof(deep), "%s/", rig.folder);
    memset(deep + strlen(deep), 'd', 120);
    strcpy(deep + strlen(rig.folder) + 121, "/fifo");
    deep[strlen(rig.folder) + 121] = '\0';
    assert_int_equal(mkdir(deep, 0700), 0);
    deep[strlen(rig.folder) + 121] = '/';
    const char *paths[2] = {path_of("fifo"), deep};
    for (int i = 0; i < 2; i++) {
        struct later later;
        assert_int_equal(mkfifo(paths[i], 0600), 0);
        start_later(&later, open_the_other_end, (void *)(uintptr_t)paths[i]);
        lg_calls_reset_longest(&rig.calls);
        lg_calls_attach(&rig.calls);
        int fd = open(paths[i], O_RDONLY);
        join(&later);
        assert_true(fd >= 0);
        close(fd);
        const struct lg_call *call = lg_calls_longest_since(&rig.calls, 0);
        assert_non_null(call);
        assert_int_equal(call->kind, LG_CALL_OPEN);
        assert_int_equal(call->class, LG_CALL_CLASS_DISK);
        if (i == 0) {
            assert_string_equal(call->detail, paths[0]);
        }
        else {
            assert_int_equal(strlen(call->detail), LG_CALL_DETAIL - 1);
            assert_memory_equal(call->detail, "...ddd", 6);
            assert_string_equal(call->detail + LG_CALL_DETAIL - 6, "/fifo");
        }
    }
}

static void
the_mode_of_a_created_file_arrives(void **state)
{
    (void)state;
    struct stat st;
    mode_t mask = umask(0);
    lg_calls_attach(&rig.calls);
    int a = open(path_of("a"), O_CREAT | O_RDWR, 0641);
    assert_int_equal(fstat(a, &st), 0);
    lg_calls_attach(NULL);
    umask(mask);
    assert_int_equal(st.st_mode & 0777, 0641);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_OPEN], 1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_STAT], 1);
    close(a);
}

static void
files_are_written_synced_and_removed_as_disk(void **state)
{
    (void)state;
    lg_calls_attach(&rig.calls);
    FILE *file = fopen(path_of("f"), "w");
    assert_int_equal(fwrite("abc", 1, 3, file), 3);
    assert_int_equal(fflush(file), 0);
    assert_int_equal(fsync(fileno(file)), 0);
    fclose(file);
    assert_int_equal(access(path_of("f"), R_OK), 0);
    assert_int_equal(unlink(path_of("f")), 0);
    lg_calls_attach(NULL);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_OPEN], 1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_WRITE], 2);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SYNC], 1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_CLOSE], 1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_STAT], 1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_UNLINK], 1);
    assert_true(rig.calls.class_calls[LG_CALL_CLASS_DISK] >= 5);
}

static void
unlock_file(void *arg)
{
    flock(*(int *)arg, LOCK_UN);
}

static void
a_file_lock_is_a_lock_with_a_path(void **state)
{
    (void)state;
    struct later later;
    int a = open(path_of("locked"), O_CREAT | O_RDWR, 0600);
    int b = open(path_of("locked"), O_RDWR);
    assert_int_equal(flock(a, LOCK_EX), 0);
    start_later(&later, unlock_file, &a);
    lg_calls_attach(&rig.calls);
    assert_int_equal(flock(b, LOCK_EX), 0);
    join(&later);
    char expected[256];
    snprintf(expected, sizeof(expected), "file lock fd %d %s/locked", b, rig.folder);
    assert_string_equal(longest(), expected);
    assert_int_equal(rig.calls.lock_ns, longest_ns());
    close(a);
    close(b);
}

static void
fcntl_counts_only_when_it_waits_for_a_lock(void **state)
{
    (void)state;
    int fd = open(path_of("locked"), O_CREAT | O_RDWR, 0600);
    lg_calls_attach(&rig.calls);
    int flags = fcntl(fd, F_GETFL);
    assert_int_equal(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    assert_int_equal(rig.calls.kind_calls[LG_CALL_FLOCK], 0);
    assert_int_equal(fcntl(fd, F_SETLKW, &lock), 0);
    lg_calls_attach(NULL);
    assert_true(copy >= 100);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_FLOCK], 1);
    close(copy);
    close(fd);
}

static void
waiting_for_a_child_names_its_pid(void **state)
{
    (void)state;
    int fds[2];
    char byte;
    struct later later;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(read(fds[0], &byte, 1) == 1 ? 7 : 1);
    }
    int status;
    start_later(&later, write_a_byte, &fds[1]);
    lg_calls_attach(&rig.calls);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    join(&later);
    close(fds[0]);
    close(fds[1]);
    char expected[64];
    snprintf(expected, sizeof(expected), "waitpid pid %d", pid);
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_string_equal(longest(), expected);
}

static void
a_name_look_up_names_the_host(void **state)
{
    (void)state;
    struct addrinfo *found = NULL;
    lg_calls_attach(&rig.calls);
    assert_int_equal(getaddrinfo("127.0.0.1", "80", NULL, &found), 0);
    lg_calls_attach(NULL);
    freeaddrinfo(found);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_RESOLVE], 1);
    struct lg_call call = {.kind = LG_CALL_RESOLVE, .fd = -1, .detail = "db.example"};
    char text[64];
    lg_call_format(&call, text, sizeof(text));
    assert_string_equal(text, "getaddrinfo db.example");
}

/* ---- locks and the GIL ------------------------------------------------------------ */

static void
post(void *arg)
{
    sem_post(arg);
}

static void
a_semaphore_is_a_lock(void **state)
{
    (void)state;
    sem_t sem;
    struct later later;
    sem_init(&sem, 0, 0);
    start_later(&later, post, &sem);
    lg_calls_attach(&rig.calls);
    assert_int_equal(sem_wait(&sem), 0);
    join(&later);
    assert_string_equal(longest(), "lock");
    assert_int_equal(rig.calls.lock_ns, longest_ns());
    sem_destroy(&sem);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond[2] = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};

static void *
hold_mutex(void *arg)
{
    sem_t *held = arg;
    pthread_mutex_lock(&mutex);
    sem_post(held);
    await_call();
    sleep_ms(6);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void
a_mutex_counts_only_when_another_holds_it(void **state)
{
    (void)state;
    lg_calls_attach(&rig.calls);
    assert_int_equal(pthread_mutex_lock(&mutex), 0);
    assert_int_equal(pthread_mutex_unlock(&mutex), 0);
    lg_calls_attach(NULL);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_MUTEX], 0);

    sem_t held;
    pthread_t thread;
    sem_init(&held, 0, 0);
    pthread_create(&thread, NULL, hold_mutex, &held);
    sem_wait(&held);
    lg_calls_attach(&rig.calls);
    assert_int_equal(pthread_mutex_lock(&mutex), 0);
    lg_calls_attach(NULL);
    pthread_mutex_unlock(&mutex);
    pthread_join(thread, NULL);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_MUTEX], 1);
    assert_string_equal(longest(), "mutex");
    sem_destroy(&held);
}

static void
a_mutex_that_would_deadlock_still_says_so(void **state)
{
    (void)state;
    pthread_mutexattr_t attr;
    pthread_mutex_t checked;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&checked, &attr);
    lg_calls_attach(&rig.calls);
    assert_int_equal(pthread_mutex_lock(&checked), 0);
    assert_int_equal(pthread_mutex_lock(&checked), EDEADLK);
    lg_calls_attach(NULL);
    pthread_mutex_unlock(&checked);
    pthread_mutex_destroy(&checked);
}

static void
wait_on(pthread_cond_t *c, int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ms * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&mutex);
    assert_int_equal(pthread_cond_timedwait(c, &mutex, &t), ETIMEDOUT);
    pthread_mutex_unlock(&mutex);
}

static void
a_condition_in_the_gils_range_is_the_gil_and_others_are_locks(void **state)
{
    (void)state;
    lg_hooks_set_gil_range((uintptr_t)&cond[0], (uintptr_t)&cond[1]);
    lg_calls_attach(&rig.calls);
    wait_on(&cond[1], 2);
    assert_in_range(rig.calls.lock_ns, 1 * MS, 1000 * MS);
    assert_int_equal(rig.calls.gil_ns, 0);
    assert_string_equal(longest(), "condition");
    uint64_t lock_ns = rig.calls.lock_ns;
    lg_calls_reset_longest(&rig.calls);
    wait_on(&cond[0], 2);
    lg_calls_attach(NULL);
    assert_in_range(rig.calls.gil_ns, 1 * MS, 1000 * MS);
    assert_int_equal(rig.calls.lock_ns, lock_ns);
    assert_string_equal(longest(), "GIL");
}

static void
consecutive_waits_for_the_gil_are_one(void **state)
{
    (void)state;
    lg_hooks_set_gil_range((uintptr_t)&cond[0], (uintptr_t)&cond[1]);
    rig.calls.slow_ns = 7 * MS;
    /* Preempted between two waits it is rightly two: then try again. */
    for (int i = 0; i < 100; i++) {
        lg_calls_attach(NULL);
        lg_calls_init(&rig.calls);
        rig.calls.slow_call = on_slow;
        rig.calls.slow_ns = 7 * MS;
        rig.slow_count = 0;
        lg_calls_attach(&rig.calls);
        uint64_t start = lg_now_ns();
        wait_on(&cond[0], 5);
        wait_on(&cond[0], 5);
        wait_on(&cond[0], 5);
        if (rig.calls.class_calls[LG_CALL_CLASS_GIL] == 1) {
            assert_in_range(longest_ns(), 14 * MS, lg_now_ns() - start);
            break;
        }
    }
    lg_calls_attach(NULL);
    assert_int_equal(rig.calls.class_calls[LG_CALL_CLASS_GIL], 1);
    assert_int_equal(rig.calls.longest_count, 1);
    assert_int_equal(rig.slow_count, 1);
    assert_in_range(longest_ns() - rig.calls.gil_ns, 0, 2 * LG_CALL_LOOK_NS);
}

/* ---- poll ----------------------------------------------------------------------------- */

static int
epoll_with(int fd)
{
    int epfd = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN};
    assert_int_equal(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev), 0);
    return epfd;
}

static void
each_poll_of_the_loop_has_two_edges_and_is_in_no_sum(void **state)
{
    (void)state;
    struct epoll_event ev;
    int fd = eventfd(1, 0);
    int epfd = epoll_with(fd);
    rig.calls.poll_fd = epfd;
    lg_calls_attach(&rig.calls);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(epoll_wait(epfd, &ev, 1, 0), 1);
        assert_int_equal(epoll_pwait(epfd, &ev, 1, 1000, NULL), 1);
    }
    assert_int_equal(rig.n_events, 1);
    close(fd);
    assert_int_equal(epoll_wait(epfd, &ev, 1, 5), 0);
    lg_calls_attach(NULL);
    assert_int_equal(rig.enters, 7);
    assert_int_equal(rig.leaves, 7);
    assert_int_equal(rig.n_events, 0);
    assert_in_range(rig.left_ns - rig.entered_ns, 5 * MS, 1000 * MS);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_EPOLL], 0);
    assert_string_equal(longest(), "");
    close(epfd);
}

static void
an_unknown_loop_is_the_first_epoll_that_may_block(void **state)
{
    (void)state;
    struct epoll_event ev;
    int fd = eventfd(1, 0);
    int other = epoll_with(fd);
    int own = epoll_with(fd);
    lg_calls_attach(&rig.calls);
    assert_int_equal(epoll_wait(other, &ev, 1, 0), 1);
    assert_int_equal(rig.enters, 0);
    assert_int_equal(epoll_wait(own, &ev, 1, -1), 1);
    assert_int_equal(rig.enters, 1);
    assert_int_equal(rig.calls.poll_fd, own);
    assert_int_equal(epoll_wait(other, &ev, 1, -1), 1);
    lg_calls_attach(NULL);
    assert_int_equal(rig.enters, 1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_EPOLL], 2);
    close(own);
    close(other);
    close(fd);
}

static void
a_poll_or_select_that_watches_the_self_pipe_is_the_loops(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    rig.calls.member_fd = fds[0];
    lg_calls_attach(&rig.calls);
    struct pollfd watched[2] = {{.fd = fds[1], .events = POLLOUT}, {.fd = fds[0]}};
    assert_int_equal(poll(watched, 2, 1000), 1);
    assert_int_equal(rig.enters, 1);
    assert_int_equal(poll(watched, 1, 1000), 1);
    assert_int_equal(rig.enters, 1);
    fd_set r;
    FD_ZERO(&r);
    FD_SET(fds[0], &r);
    struct timeval t = {.tv_usec = 1000};
    assert_int_equal(select(fds[0] + 1, &r, NULL, NULL, &t), 0);
    lg_calls_attach(NULL);
    assert_int_equal(rig.enters, 2);
    assert_int_equal(rig.leaves, 2);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_POLL], 1);
    close(fds[0]);
    close(fds[1]);
}

static void
a_poll_or_select_on_nothing_is_a_sleep(void **state)
{
    (void)state;
    lg_calls_attach(&rig.calls);
    struct timeval t = {.tv_usec = 2000};
    assert_int_equal(select(0, NULL, NULL, NULL, &t), 0);
    assert_int_equal(poll(NULL, 0, 2), 0);
    lg_calls_attach(NULL);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 2);
    assert_string_equal(longest(), "sleep");
}

/* ---- what a guest must not change -------------------------------------------------------- */

static void
errno_is_the_real_functions_after_a_long_call(void **state)
{
    (void)state;
    int fds[2];
    char byte;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    struct timeval t = {.tv_usec = 5000};
    setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
    lg_calls_attach(&rig.calls);
    errno = 0;
    assert_int_equal(recv(fds[0], &byte, 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
    errno = 77;
    sleep_ms(3);
    assert_int_equal(errno, 77);
    lg_calls_attach(NULL);
    assert_int_equal(rig.slow_count, 2);
    close(fds[0]);
    close(fds[1]);
}

static void
sleep_in_handler(int sig)
{
    (void)sig;
    sleep_ms(3);
}

static void
interrupt(void *arg)
{
    pthread_kill(*(pthread_t *)arg, SIGUSR1);
}

static void
a_signal_interrupts_and_its_handlers_calls_are_part_of_the_call(void **state)
{
    (void)state;
    struct sigaction act = {.sa_handler = sleep_in_handler};
    sigaction(SIGUSR1, &act, NULL);
    pthread_t self = pthread_self();
    struct later later;
    start_later(&later, interrupt, &self);
    lg_calls_attach(&rig.calls);
    uint64_t start = lg_now_ns();
    int r = nanosleep(&(struct timespec){.tv_sec = 20}, NULL);
    int err = errno;
    uint64_t wall = lg_now_ns() - start;
    join(&later);
    assert_int_equal(r, -1);
    assert_int_equal(err, EINTR);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
    assert_in_range(rig.calls.io_ns, 3 * MS, wall);
    assert_true(wall < 20 * LG_NS_PER_S);
}

static sigjmp_buf escape;

static void
jump_out(int sig)
{
    (void)sig;
    siglongjmp(escape, 1);
}

/* In a frame of its own, below the caller's next calls. */
static __attribute__((noinline)) int
sleep_until_jumped_out(void)
{
    volatile char deeper[4096] = {0};
    nanosleep(&(struct timespec){.tv_sec = 20}, NULL);
    return deeper[1];
}

static void
a_longjmp_out_of_a_call_does_not_blind_us(void **state)
{
    (void)state;
    struct sigaction act = {.sa_handler = jump_out};
    sigaction(SIGUSR1, &act, NULL);
    pthread_t self = pthread_self();
    struct later later;
    start_later(&later, interrupt, &self);
    lg_calls_attach(&rig.calls);
    if (sigsetjmp(escape, 1) == 0) {
        (void)sleep_until_jumped_out();
    }
    sleep_ms(3);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
    assert_string_equal(longest(), "sleep");
    join(&later);
}

static void
a_thread_that_is_not_attached_is_not_timed(void **state)
{
    (void)state;
    sleep_ms(2);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 0);
    assert_null(lg_calls_current());
    lg_calls_attach(&rig.calls);
    assert_ptr_equal(lg_calls_current(), &rig.calls);
}

static void *
watch_until_seen(void *arg)
{
    int fd = *(int *)arg;
    uint64_t deadline = lg_now_ns() + 10 * LG_NS_PER_S;
    while (lg_now_ns() < deadline) {
        uint64_t since;
        enum lg_call_kind kind;
        int seen;
        if (lg_calls_now(&rig.calls, &since, &kind, &seen) && kind == LG_CALL_RECV && seen == fd &&
            since != 0 && since <= lg_now_ns()) {
            break;
        }
    }
    return (void *)(intptr_t)send(fd + 1, "x", 1, 0);
}

static void
another_thread_sees_the_call_under_way(void **state)
{
    (void)state;
    int fds[2];
    char byte;
    uint64_t since;
    enum lg_call_kind kind;
    int fd;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(fds[1], fds[0] + 1);
    pthread_t thread;
    uint64_t start = lg_now_ns();
    pthread_create(&thread, NULL, watch_until_seen, &fds[0]);
    lg_calls_attach(&rig.calls);
    assert_int_equal(recv(fds[0], &byte, 1, 0), 1);
    assert_true(lg_now_ns() - start < 10 * LG_NS_PER_S);
    assert_false(lg_calls_now(&rig.calls, &since, &kind, &fd));
    lg_calls_attach(NULL);
    pthread_join(thread, NULL);
    close(fds[0]);
    close(fds[1]);
}

static void
a_fork_counts_in_the_parent_and_the_child_goes_on(void **state)
{
    (void)state;
    lg_calls_attach(&rig.calls);
    pid_t pid = fork();
    if (pid == 0) {
        uint64_t before = rig.calls.kind_calls[LG_CALL_SLEEP];
        sleep_ms(1);
        bool timed = rig.calls.kind_calls[LG_CALL_SLEEP] == before + 1;
        lg_hooks_uninstall();
        sleep_ms(1);
        bool restored = rig.calls.kind_calls[LG_CALL_SLEEP] == before + 1;
        _exit(timed && restored ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SPAWN], 1);
    sleep_ms(1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
}

/* ---- the longest ------------------------------------------------------------------------- */

static void
the_longest_call_of_any_stretch_that_ends_now_is_kept(void **state)
{
    (void)state;
    lg_calls_attach(&rig.calls);
    uint64_t at[4];
    int ms[4] = {9, 2, 6, 3};
    for (int i = 0; i < 4; i++) {
        at[i] = lg_now_ns();
        sleep_ms(ms[i]);
    }
    lg_calls_attach(NULL);
    for (int i = 0; i < 4; i++) {
        const struct lg_call *call = lg_calls_longest_since(&rig.calls, at[i]);
        assert_non_null(call);
        assert_true(call->start_ns >= at[i]);
        /* A stalled machine may stretch any of them; the rule holds all the same. */
        assert_true(call->dur_ns >= (uint64_t)(i == 0 ? 9 : i == 3 ? 3 : 6) * MS);
    }
    assert_null(lg_calls_longest_since(&rig.calls, lg_now_ns()));
}

static void
the_longest_is_forgotten_when_the_loops_poll_returns(void **state)
{
    (void)state;
    struct epoll_event ev;
    int epfd = epoll_create1(0);
    rig.calls.poll_fd = epfd;
    lg_calls_attach(&rig.calls);
    sleep_ms(2);
    assert_int_not_equal(longest_ns(), 0);
    assert_int_equal(epoll_wait(epfd, &ev, 1, 0), 0);
    lg_calls_attach(NULL);
    assert_int_equal(longest_ns(), 0);
    close(epfd);
}

/* ---- the slots ----------------------------------------------------------------------------- */

static void
after_uninstall_nothing_is_timed_and_a_copied_pointer_still_works(void **state)
{
    (void)state;
    int (*volatile copied)(const struct timespec *, struct timespec *) = nanosleep;
    lg_calls_attach(&rig.calls);
    sleep_ms(1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
    lg_hooks_uninstall();
    struct lg_hooks_status status;
    lg_hooks_status(&status);
    assert_false(status.installed);
    sleep_ms(1);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
    assert_int_equal(copied(&(struct timespec){.tv_nsec = 1000}, NULL), 0);
    char reason[64] = "untouched";
    assert_int_equal(lg_hooks_install(reason, sizeof(reason)), 0);
    assert_string_equal(reason, "");
    sleep_ms(1);
    assert_true(rig.calls.kind_calls[LG_CALL_SLEEP] >= 2);
}

static void
an_object_loaded_late_is_timed_after_a_rescan(void **state)
{
    (void)state;
    char path[4096];
    snprintf(path, sizeof(path), "%s/late_now.so", getenv("LG_TEST_OBJECTS"));
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(object);
    int (*late_sleep_ms)(int);
    *(void **)&late_sleep_ms = dlsym(object, "late_sleep_ms");
    lg_calls_attach(&rig.calls);
    assert_int_equal(late_sleep_ms(1), 0);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 0);
    assert_int_equal(lg_hooks_rescan(), 0);
    assert_int_equal(late_sleep_ms(1), 0);
    assert_int_equal(rig.calls.kind_calls[LG_CALL_SLEEP], 1);
    lg_calls_attach(NULL);
    dlclose(object);
}

static void
the_status_tells_what_is_held(void **state)
{
    (void)state;
    struct lg_hooks_status status;
    lg_hooks_status(&status);
    assert_true(status.installed);
    assert_true(status.functions > 100);
    assert_true(status.missing < status.functions / 2);
    assert_true(status.objects >= 2);
    assert_true(status.slots >= 30);    /* this program's own */
    assert_true(status.poll_slots >= 2);
    assert_int_equal(status.refused, 0);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_sleep_is_io_of_its_duration),
        TEST(short_calls_are_counted_and_summed_but_not_kept),
        TEST(a_receive_names_its_peer),
        TEST(a_poll_on_one_socket_names_its_peer),
        TEST(a_connect_names_the_address_it_was_asked_for),
        TEST(a_unix_socket_is_named_by_its_path),
        TEST(a_transfer_that_cannot_wait_is_in_no_sum),
        TEST(reading_a_pipe_is_io_and_reading_a_file_is_disk),
        TEST(an_open_names_its_path_and_a_long_one_by_its_end),
        TEST(the_mode_of_a_created_file_arrives),
        TEST(files_are_written_synced_and_removed_as_disk),
        TEST(a_file_lock_is_a_lock_with_a_path),
        TEST(fcntl_counts_only_when_it_waits_for_a_lock),
        TEST(waiting_for_a_child_names_its_pid),
        TEST(a_name_look_up_names_the_host),
        TEST(a_semaphore_is_a_lock),
        TEST(a_mutex_counts_only_when_another_holds_it),
        TEST(a_mutex_that_would_deadlock_still_says_so),
        TEST(a_condition_in_the_gils_range_is_the_gil_and_others_are_locks),
        TEST(consecutive_waits_for_the_gil_are_one),
        TEST(each_poll_of_the_loop_has_two_edges_and_is_in_no_sum),
        TEST(an_unknown_loop_is_the_first_epoll_that_may_block),
        TEST(a_poll_or_select_that_watches_the_self_pipe_is_the_loops),
        TEST(a_poll_or_select_on_nothing_is_a_sleep),
        TEST(errno_is_the_real_functions_after_a_long_call),
        TEST(a_signal_interrupts_and_its_handlers_calls_are_part_of_the_call),
        TEST(a_longjmp_out_of_a_call_does_not_blind_us),
        TEST(a_thread_that_is_not_attached_is_not_timed),
        TEST(another_thread_sees_the_call_under_way),
        TEST(a_fork_counts_in_the_parent_and_the_child_goes_on),
        TEST(the_longest_call_of_any_stretch_that_ends_now_is_kept),
        TEST(the_longest_is_forgotten_when_the_loops_poll_returns),
        TEST(after_uninstall_nothing_is_timed_and_a_copied_pointer_still_works),
        TEST(an_object_loaded_late_is_timed_after_a_rescan),
        TEST(the_status_tells_what_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
