/* test_lg_copy.c - copies out of a file that is cut meanwhile. */
#include "rig.h"

#include <sys/mman.h>

#include "lg_copy.h"

#define PAGES 4
#define BYTES (PAGES * 4096)

struct rig {
    int fd;
    uint64_t *map;                      /* BYTES of the file, read-only */
    uint64_t copy[BYTES / 8];
};

static int
make_rig(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    rig->fd = memfd_create("lg-test", MFD_CLOEXEC);
    assert_true(rig->fd >= 0);
    for (uint64_t i = 0; i < BYTES / 8; i++) {
        assert_int_equal(write(rig->fd, &i, 8), 8);
    }
    rig->map = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, rig->fd, 0);
    assert_true(rig->map != MAP_FAILED);
    *state = rig;
    return 0;
}

static int
drop_rig(void **state)
{
    struct rig *rig = *state;
    munmap(rig->map, BYTES);
    close(rig->fd);
    free(rig);
    return 0;
}

static void
words_arrive(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(lg_copy_guard(), 0);
    assert_int_equal(lg_copy(rig->copy, rig->map + 8, 800), 0);
    for (uint64_t i = 0; i < 100; i++) {
        assert_int_equal(rig->copy[i], i + 8);
    }
    assert_int_equal(rig->copy[100], 0);
}

static void
cut_file_is_an_error_each_time_and_no_signal(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(lg_copy_guard(), 0);       /* here: cmocka sets SIGBUS per test */
    assert_int_equal(ftruncate(rig->fd, 4096), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(lg_copy(rig->copy, rig->map, BYTES), LG_ETRUNCATED);
    }
    assert_int_equal(lg_copy(rig->copy, rig->map, 4096), 0);
    assert_int_equal(rig->copy[511], 511);
}

static void
take_both_ends(void *arg)
{
    struct rig *rig = arg;
    lg_copy(rig->copy, rig->map, 8);            /* guarded by the run around it */
    lg_copy(rig->copy + 1, rig->map + BYTES / 8 - 1, 8);
}

static void
guard_spans_all_that_a_run_does(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(lg_copy_guard(), 0);
    assert_int_equal(lg_copy_run(rig->map, BYTES, take_both_ends, rig), 0);
    assert_int_equal(rig->copy[1], BYTES / 8 - 1);
    assert_int_equal(ftruncate(rig->fd, 4096), 0);
    assert_int_equal(lg_copy_run(rig->map, BYTES, take_both_ends, rig), LG_ETRUNCATED);
    assert_int_equal(lg_copy(rig->copy, rig->map, 8), 0);
}

/* Signals that are not ours, in a fresh image: cmocka handles SIGBUS too, and
 * so may a sanitizer there. */
static int
status_of(const char *mode)
{
    pid_t child = fork();
    if (child == 0) {
        char self[RIG_PATH] = "";               /* not the link: valgrind's leads to itself */
        if (readlink("/proc/self/exe", self, sizeof(self) - 1) > 0) {
            execl(self, self, mode, (char *)NULL);
        }
        _exit(1);
    }
    return rig_wait(child);
}

static void
load_outside_a_copy_dies_as_ever(void **state)
{
    int status = status_of("load");
    (void)state;
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 11);
}

static void
sigbus_from_kill_is_passed_on(void **state)
{
    int status = status_of("kill");
    (void)state;
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 11);
}

static void
handler_that_was_there_before_is_called(void **state)
{
    int status = status_of("handler");
    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 33);
}

static void
own_handler(int signo)
{
    _exit(signo == SIGBUS ? 33 : 34);
}

/* 11: the signal had no effect. */
static int
run_mode(const char *mode)
{
    int fd = memfd_create("lg-test", MFD_CLOEXEC);
    volatile uint64_t *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    signal(SIGBUS, strcmp(mode, "handler") == 0 ? own_handler : SIG_DFL);
    if (lg_copy_guard() != 0) {
        return 2;
    }
    if (strcmp(mode, "load") == 0) {
        (void)map[0];                           /* the file is empty */
    }
    else {
        raise(SIGBUS);
    }
    return 11;
}

#define RIGGED(test) cmocka_unit_test_setup_teardown(test, make_rig, drop_rig)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        RIGGED(words_arrive),
        RIGGED(cut_file_is_an_error_each_time_and_no_signal),
        RIGGED(guard_spans_all_that_a_run_does),
        RIGGED(load_outside_a_copy_dies_as_ever),
        RIGGED(sigbus_from_kill_is_passed_on),
        RIGGED(handler_that_was_there_before_is_called),
    };
    if (argc > 1) {
        return run_mode(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
