/* test_lg_liveness.c - the table of cases: who counts as alive, and why. */
#include "rig.h"

#include <sys/file.h>

#include "lg_liveness.h"
#include "lg_proc.h"

struct rig {
    struct rig_dir dir;
    struct lg_segment seg;
    struct lg_geometry geo;             /* of this process's live segment */
    int fd;                             /* the reader's own open */
};

static int
make_rig(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    rig_dir_make(&rig->dir);
    rig->seg = rig_segment(&rig->dir, 0);
    assert_int_equal(rig_geometry(rig->seg.path, &rig->geo), 0);
    rig->fd = open(rig->seg.path, O_RDONLY | O_CLOEXEC);
    assert_true(rig->fd >= 0);
    *state = rig;
    return 0;
}

static int
drop_rig(void **state)
{
    struct rig *rig = *state;
    close(rig->fd);
    lg_segment_close(&rig->seg, false);
    rig_dir_remove(&rig->dir);
    free(rig);
    return 0;
}

/* The pid of a process that has ended and was waited for. */
static pid_t
ended_pid(void)
{
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    rig_wait(child);
    return child;
}

static void
release_lock(struct rig *rig)
{
    assert_int_equal(flock(rig->seg.fd, LOCK_UN), 0);
}

static void
running_writer_is_alive(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_ALIVE);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, getpid()), LG_ALIVE);
    assert_int_equal(lg_liveness(&rig->geo, -1, 0), LG_ALIVE);
}

static void
writer_of_another_boot_is_dead_whatever_else_holds(void **state)
{
    struct rig *rig = *state;
    rig->geo.proc.boot_id[3] ^= 1;
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, getpid()), LG_DEAD);
}

static void
unknown_boot_proves_nothing(void **state)
{
    struct rig *rig = *state;
    memset(rig->geo.proc.boot_id, 0, 16);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_ALIVE);
}

static void
free_lock_means_dead_even_if_the_process_runs_on(void **state)
{
    struct rig *rig = *state;
    release_lock(rig);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, getpid()), LG_DEAD);
    rig->geo.proc.ns_pid = 1;                   /* also across pid namespaces */
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_DEAD);
}

static void
lock_is_given_back_and_readers_do_not_deceive_each_other(void **state)
{
    struct rig *rig = *state;
    int other = open(rig->seg.path, O_RDONLY | O_CLOEXEC);
    release_lock(rig);
    assert_int_equal(flock(other, LOCK_SH | LOCK_NB), 0);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_DEAD);
    close(other);
    assert_int_equal(flock(rig->seg.fd, LOCK_EX | LOCK_NB), 0);
}

static void
lock_of_a_segment_being_born_is_not_touched(void **state)
{
    struct rig *rig = *state;
    release_lock(rig);
    rig->geo.header.magic = 0;
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_ALIVE);
}

static void
ended_process_is_dead(void **state)
{
    struct rig *rig = *state;
    rig->geo.proc.pid = (uint32_t)ended_pid();
    assert_int_equal(lg_liveness(&rig->geo, -1, 0), LG_DEAD);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, (int)rig->geo.proc.pid), LG_DEAD);
}

static void
other_process_of_the_same_number_is_told_apart(void **state)
{
    struct rig *rig = *state;
    rig->geo.proc.start_ticks++;
    assert_int_equal(lg_liveness(&rig->geo, -1, 0), LG_DEAD_REUSED);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, getpid()), LG_DEAD_REUSED);
    release_lock(rig);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_DEAD_REUSED);
}

static void
start_times_of_another_time_namespace_are_not_compared(void **state)
{
    struct rig *rig = *state;
    rig->geo.proc.start_ticks++;
    rig->geo.proc.ns_time++;
    assert_int_equal(lg_liveness(&rig->geo, -1, getpid()), LG_ALIVE);
}

static void
process_of_another_pid_namespace_is_not_looked_up_by_its_own_number(void **state)
{
    struct rig *rig = *state;
    rig->geo.proc.pid = (uint32_t)ended_pid();
    rig->geo.proc.ns_pid++;
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, 0), LG_ALIVE);
    assert_int_equal(lg_liveness(&rig->geo, -1, 0), LG_ALIVE);
    assert_int_equal(lg_liveness(&rig->geo, -1, getpid()), LG_ALIVE);
}

static void
zombie_is_dead_unless_its_lock_is_held(void **state)
{
    struct rig *rig = *state;
    struct lg_proc_stat stat;
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(lg_proc_read_stat(child, &stat), 0);
    rig->geo.proc.start_ticks = stat.start_ticks;
    assert_int_equal(lg_liveness(&rig->geo, -1, child), LG_DEAD);
    assert_int_equal(lg_liveness(&rig->geo, rig->fd, child), LG_ALIVE);
    rig_wait(child);
}

static void
killed_writer_is_dead_by_its_lock(void **state)
{
    struct rig *rig = *state;
    char path[RIG_PATH];
    struct lg_geometry geo;
    int ready[2];
    char byte;
    lg_segment_close(&rig->seg, false);
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct lg_segment_options options = {.dir = rig->dir.path, .endpoints = 2};
        int err = lg_segment_create(&options, &rig->seg);
        if (write(ready[1], "x", 1) != 1 || err != 0) {
            _exit(1);
        }
        pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(rig_dir_find(&rig->dir, path), 1);
    assert_int_equal(rig_geometry(path, &geo), 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(lg_liveness(&geo, fd, 0), LG_ALIVE);
    kill(child, SIGKILL);
    rig_wait(child);
    assert_int_equal(lg_liveness(&geo, fd, 0), LG_DEAD);
    close(fd);
    close(ready[0]);
    close(ready[1]);
}

#define RIGGED(test) cmocka_unit_test_setup_teardown(test, make_rig, drop_rig)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        RIGGED(running_writer_is_alive),
        RIGGED(writer_of_another_boot_is_dead_whatever_else_holds),
        RIGGED(unknown_boot_proves_nothing),
        RIGGED(free_lock_means_dead_even_if_the_process_runs_on),
        RIGGED(lock_is_given_back_and_readers_do_not_deceive_each_other),
        RIGGED(lock_of_a_segment_being_born_is_not_touched),
        RIGGED(ended_process_is_dead),
        RIGGED(other_process_of_the_same_number_is_told_apart),
        RIGGED(start_times_of_another_time_namespace_are_not_compared),
        RIGGED(process_of_another_pid_namespace_is_not_looked_up_by_its_own_number),
        RIGGED(zombie_is_dead_unless_its_lock_is_held),
        RIGGED(killed_writer_is_dead_by_its_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
