/* test_lg_proc.c - what /proc says, also of processes with evil names. */
#include "rig.h"

#include <sys/prctl.h>

#include "lg_proc.h"

static void
own_stat_names_parent_and_state(void **state)
{
    struct lg_proc_stat self;
    struct lg_proc_stat by_pid;
    char name[16];
    (void)state;
    assert_int_equal(lg_proc_read_stat(0, &self), 0);
    assert_int_equal(lg_proc_read_stat(getpid(), &by_pid), 0);
    assert_int_equal(self.ppid, getppid());
    assert_int_equal(self.state, 'R');
    assert_int_equal(self.start_ticks, by_pid.start_ticks);
    assert_true(self.start_ticks > 0);
    assert_int_equal(prctl(PR_GET_NAME, name), 0);
    assert_string_equal(self.comm, name);
}

static void
name_with_brackets_does_not_shift_the_fields(void **state)
{
    struct lg_proc_stat before;
    struct lg_proc_stat after;
    (void)state;
    assert_int_equal(lg_proc_read_stat(0, &before), 0);
    prctl(PR_SET_NAME, "a) Z 1 (b) 9");
    assert_int_equal(lg_proc_read_stat(0, &after), 0);
    prctl(PR_SET_NAME, before.comm);
    assert_string_equal(after.comm, "a) Z 1 (b) 9");
    assert_int_equal(after.ppid, before.ppid);
    assert_int_equal(after.start_ticks, before.start_ticks);
}

static void
status_gives_user_and_inner_pid(void **state)
{
    struct lg_proc_status status;
    (void)state;
    assert_int_equal(lg_proc_read_status(0, &status), 0);
    assert_int_equal(status.uid, geteuid());
    assert_int_equal(status.inner_pid, getpid());
}

static void
ended_process_is_esrch_everywhere(void **state)
{
    struct lg_proc_stat stat;
    struct lg_proc_status status;
    char text[64];
    uint64_t ns;
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    rig_wait(child);
    assert_int_equal(lg_proc_read_stat(child, &stat), -ESRCH);
    assert_int_equal(lg_proc_read_status(child, &status), -ESRCH);
    assert_int_equal(lg_proc_read_cmdline(child, text, sizeof(text)), -ESRCH);
    assert_int_equal(lg_proc_read_exe(child, text, sizeof(text)), -ESRCH);
    assert_int_equal(lg_proc_read_ns(child, "pid", &ns), -ESRCH);
}

static void
zombie_has_no_arguments(void **state)
{
    struct lg_proc_stat stat;
    char text[64] = "old";
    siginfo_t info;
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(lg_proc_read_stat(child, &stat), 0);
    assert_int_equal(stat.state, 'Z');
    assert_int_equal(lg_proc_read_cmdline(child, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    rig_wait(child);
}

static void
arguments_are_joined_and_cut(void **state)
{
    char text[256];
    char small[6];
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "kill -STOP $$", "two words", (char *)NULL);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_int_equal(lg_proc_read_cmdline(child, text, sizeof(text)), 0);
    assert_int_equal(lg_proc_read_cmdline(child, small, sizeof(small)), 0);
    kill(child, SIGKILL);
    rig_wait(child);
    assert_string_equal(text, "sh -c kill -STOP $$ two words");
    assert_string_equal(small, "sh -c");
}

static void
executable_is_a_path(void **state)
{
    char path[256];
    char small[4];
    (void)state;
    assert_int_equal(lg_proc_read_exe(0, path, sizeof(path)), 0);
    assert_int_equal(path[0], '/');
    assert_int_equal(lg_proc_read_exe(0, small, sizeof(small)), 0);
    assert_int_equal(strlen(small), 3);
}

static void
namespace_the_kernel_does_not_have_is_zero(void **state)
{
    uint64_t pid_ns = 0;
    uint64_t none = 1;
    (void)state;
    assert_int_equal(lg_proc_read_ns(0, "pid", &pid_ns), 0);
    assert_true(pid_ns != 0);
    assert_int_equal(lg_proc_read_ns(0, "nonsense", &none), 0);
    assert_int_equal(none, 0);
}

static void
boot_id_is_that_of_the_kernel(void **state)
{
    uint8_t id[16];
    char text[64];
    char wanted[64] = "";
    (void)state;
    assert_int_equal(lg_proc_read_boot_id(id), 0);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    assert_non_null(f);
    assert_non_null(fgets(wanted, sizeof(wanted), f));
    fclose(f);
    char *at = text;
    for (int i = 0; i < 16; i++) {
        at += sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", id[i]);
    }
    assert_memory_equal(text, wanted, 36);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_stat_names_parent_and_state),
        cmocka_unit_test(name_with_brackets_does_not_shift_the_fields),
        cmocka_unit_test(status_gives_user_and_inner_pid),
        cmocka_unit_test(ended_process_is_esrch_everywhere),
        cmocka_unit_test(zombie_has_no_arguments),
        cmocka_unit_test(arguments_are_joined_and_cut),
        cmocka_unit_test(executable_is_a_path),
        cmocka_unit_test(namespace_the_kernel_does_not_have_is_zero),
        cmocka_unit_test(boot_id_is_that_of_the_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
