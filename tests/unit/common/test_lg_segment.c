/* test_lg_segment.c - making a segment, ending it, and what is left behind. */
#include "rig.h"

#include <linux/magic.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>

#include "lg_proc.h"
#include "lg_ring.h"

static int
make_dir(void **state)
{
    struct rig_dir *dir = malloc(sizeof(*dir));
    assert_non_null(dir);
    rig_dir_make(dir);
    *state = dir;
    return 0;
}

static int
drop_dir(void **state)
{
    rig_dir_remove(*state);
    free(*state);
    return 0;
}

static uint32_t
mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void
new_segment_passes_the_readers_check(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    struct lg_geometry geo;
    assert_int_equal(rig_geometry(seg.path, &geo), 0);
    assert_int_equal(geo.header.state, LG_STATE_RUNNING);
    assert_true(geo.header.nonce != 0);
    assert_int_equal(geo.cut_sections + geo.skipped_sections, 0);
    assert_int_equal(geo.section[LG_SEC_ENDPOINTS].count, 2);
    assert_int_equal(geo.section[LG_SEC_HISTS].count, 2 * 2 + 8 + 1);
    assert_int_equal(geo.config.max_endpoints, 2);
    assert_int_equal(geo.config.segment_mode, 0600);
    lg_segment_close(&seg, false);
}

static void
process_facts_come_from_the_kernel(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    struct lg_proc_stat stat;
    struct lg_geometry geo;
    char cwd[256];
    uint64_t ns;
    assert_int_equal(rig_geometry(seg.path, &geo), 0);
    assert_int_equal(lg_proc_read_stat(0, &stat), 0);
    assert_int_equal(geo.proc.pid, getpid());
    assert_int_equal(geo.proc.ppid, getppid());
    assert_int_equal(geo.proc.uid, geteuid());
    assert_int_equal(geo.proc.gid, getegid());
    assert_int_equal(geo.proc.start_ticks, stat.start_ticks);
    assert_int_equal(geo.proc.pointer_size, sizeof(void *));
    assert_int_equal(lg_proc_read_ns(0, "pid", &ns), 0);
    assert_int_equal(geo.proc.ns_pid, ns);
    assert_string_equal(geo.proc.cwd, getcwd(cwd, sizeof(cwd)));
    assert_non_null(strstr(geo.proc.exe, "test_lg_segment"));
    assert_non_null(strstr(geo.proc.argv, "test_lg_segment"));
    assert_true(geo.proc.start_mono_ns != 0 && geo.proc.start_mono_ns <= lg_now_ns());
    lg_segment_close(&seg, false);
}

static void
what_the_agent_passes_stays(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment_options options = {.dir = dir->path, .endpoints = 2};
    struct lg_segment seg;
    options.proc.pid = 4242;
    options.proc.start_ticks = 99;
    options.config.threshold_ns = 5;
    strcpy(options.proc.app, "shop");
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    assert_int_equal(seg.proc->pid, 4242);
    assert_int_equal(seg.proc->start_ticks, 99);
    assert_int_equal(seg.config->threshold_ns, 5);
    assert_string_equal(seg.proc->app, "shop");
    assert_non_null(strstr(seg.path, "/loopguard.4242.99"));
    lg_segment_close(&seg, false);
}

static void
slot_zero_of_each_table_exists(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    char name[32];
    uint32_t id = LG_KEY_NAME(seg.endpoints[0].key);
    assert_true(lg_string_get(seg.strings, seg.tables->strings_used, id, name, sizeof(name)));
    assert_string_equal(name, "(other)");
    assert_true(lg_string_get(seg.strings, seg.tables->strings_used, 0, name, sizeof(name)));
    assert_string_equal(name, "");
    assert_int_equal(seg.tables->endpoints_used, 1);
    assert_int_equal(seg.tables->stacks_used, 1);
    assert_int_equal(seg.tables->frames_used, 1);
    lg_segment_close(&seg, false);
}

static void
rings_lie_side_by_side_and_fill_their_section(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    struct lg_geometry geo;
    uint64_t next = 0;
    assert_int_equal(rig_geometry(seg.path, &geo), 0);
    for (int i = 0; i < LG_RINGS; i++) {
        assert_true(lg_ring_fits(&seg.rings[i], geo.section[LG_SEC_RING_SLOTS].count));
        assert_int_equal(seg.rings[i].first_slot, next);
        next += seg.rings[i].capacity;
    }
    assert_int_equal(next, geo.section[LG_SEC_RING_SLOTS].count);
    assert_int_equal(seg.rings[LG_RING_REQUESTS].ring_class, LG_RING_BULK);
    assert_int_equal(seg.rings[LG_RING_EVENTS].ring_class, LG_RING_RARE);
    assert_int_equal(seg.rings[LG_RING_WATCHDOG].ring_class, LG_RING_RARE);
    lg_segment_close(&seg, false);
}

static void
segment_at_defaults_is_at_most_4_mib(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment_options options = {.dir = dir->path};
    struct lg_segment seg;
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    assert_int_equal(seg.endpoint_count, 256);
    assert_true(seg.size <= 4 << 20);
    print_message("%zu bytes\n", seg.size);
    lg_segment_close(&seg, false);
}

static void
largest_segment_is_within_the_readers_limit(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment_options options = {.dir = dir->path, .endpoints = 4096};
    struct lg_segment seg;
    struct lg_geometry geo;
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    assert_int_equal(rig_geometry(seg.path, &geo), 0);
    lg_segment_close(&seg, false);
}

static void
shared_memory_is_the_default_place(void **state)
{
    struct lg_segment_options options = {.endpoints = 2};
    struct lg_segment seg;
    struct stat st;
    (void)state;
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    assert_memory_equal(seg.path, "/dev/shm/loopguard.", 19);
    assert_int_equal(stat(seg.path, &st), 0);
    char path[256];
    strcpy(path, seg.path);
    lg_segment_close(&seg, false);
    assert_int_equal(stat(path, &st), -1);
}

static void
mode_is_0600_whatever_the_umask(void **state)
{
    const struct rig_dir *dir = *state;
    static const mode_t masks[] = {0, 022, 0777};
    for (size_t i = 0; i < 3; i++) {
        mode_t before = umask(masks[i]);
        struct lg_segment seg = rig_segment(dir, 0);
        umask(before);
        assert_int_equal(mode_of(seg.path), 0600);
        lg_segment_close(&seg, false);
    }
}

static void
group_may_read_only_when_asked_and_nobody_else_may_write(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment_options options = {.dir = dir->path, .endpoints = 2, .mode = 0640};
    struct lg_segment seg;
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    assert_int_equal(mode_of(seg.path), 0640);
    lg_segment_close(&seg, false);
    options.mode = 0660;
    assert_int_equal(lg_segment_create(&options, &seg), -EINVAL);
    options.mode = 0602;
    assert_int_equal(lg_segment_create(&options, &seg), -EINVAL);
}

static void
taken_names_get_a_number_and_the_ninth_is_refused(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment_options options = {.dir = dir->path, .endpoints = 2};
    struct lg_segment seg[9];
    for (int i = 0; i < 8; i++) {
        char suffix[8] = "";
        assert_int_equal(lg_segment_create(&options, &seg[i]), 0);
        if (i > 0) {
            snprintf(suffix, sizeof(suffix), ".%d", i);
        }
        const char *dots = strstr(seg[i].path, "loopguard.") + strlen("loopguard.");
        const char *third = strchr(strchr(dots, '.') + 1, '.');
        assert_string_equal(third != NULL ? third : "", suffix);
    }
    assert_int_equal(lg_segment_create(&options, &seg[8]), -EEXIST);
    for (int i = 0; i < 8; i++) {
        lg_segment_close(&seg[i], false);
    }
    assert_int_equal(rig_dir_count(dir), 0);
}

static void
squatters_file_is_left_as_it_is(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    char path[256];
    struct stat st;
    strcpy(path, seg.path);
    lg_segment_close(&seg, false);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_int_equal(write(fd, "mine", 4), 4);
    close(fd);
    seg = rig_segment(dir, 0);
    assert_string_not_equal(seg.path, path);
    lg_segment_close(&seg, false);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 4);
}

static void
directory_on_a_disk_is_refused_and_stays_empty(void **state)
{
    struct rig_dir dir;
    struct statfs fs;
    struct lg_segment seg;
    (void)state;
    strcpy(dir.path, "/var/tmp/lg-test-XXXXXX");
    assert_non_null(mkdtemp(dir.path));
    assert_int_equal(statfs(dir.path, &fs), 0);
    struct lg_segment_options options = {.dir = dir.path, .endpoints = 2};
    int err = fs.f_type != TMPFS_MAGIC ? lg_segment_create(&options, &seg) : LG_ENOTTMPFS;
    int left = rig_dir_count(&dir);
    rig_dir_remove(&dir);
    if (fs.f_type == TMPFS_MAGIC) {
        print_message("skipped: /var/tmp is a tmpfs here\n");
        skip();
    }
    assert_int_equal(err, LG_ENOTTMPFS);
    assert_int_equal(left, 0);
}

static void
directory_that_is_missing_or_too_long_is_an_error(void **state)
{
    char path[300];
    struct lg_segment_options options = {.dir = "/dev/shm/no such folder", .endpoints = 2};
    struct lg_segment seg;
    (void)state;
    assert_int_equal(lg_segment_create(&options, &seg), -ENOENT);
    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    options.dir = path;
    assert_int_equal(lg_segment_create(&options, &seg), -ENAMETOOLONG);
}

static void
senseless_number_of_endpoints_is_refused(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment_options options = {.dir = dir->path, .endpoints = 1};
    struct lg_segment seg;
    assert_int_equal(lg_segment_create(&options, &seg), -EINVAL);
    options.endpoints = 4097;
    assert_int_equal(lg_segment_create(&options, &seg), -EINVAL);
    assert_int_equal(rig_dir_count(dir), 0);
}

/* In a mount namespace of its own: a tmpfs of 1 MiB, a segment of more.
 * 0 = as it should be, 77 = no right to mount. */
static int
try_small_tmpfs(const struct rig_dir *dir)
{
    struct lg_segment_options options = {.dir = dir->path};
    struct lg_segment seg;
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount("tmpfs", dir->path, "tmpfs", 0, "size=1m") < 0) {
        return 77;
    }
    if (lg_segment_create(&options, &seg) != -ENOSPC) {
        return 1;
    }
    return rig_dir_count(dir) == 0 ? 0 : 2;
}

static void
full_tmpfs_is_an_error_and_leaves_nothing(void **state)
{
    const struct rig_dir *dir = *state;
    pid_t child = fork();
    if (child == 0) {
        _exit(try_small_tmpfs(dir));
    }
    int status = rig_wait(child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: no right to mount a small tmpfs\n");
        skip();
    }
    assert_int_equal(status, 0);
}

static void
file_size_limit_is_an_error_and_no_signal(void **state)
{
    const struct rig_dir *dir = *state;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {.rlim_cur = 65536, .rlim_max = 65536};
        struct lg_segment_options options = {.dir = dir->path, .endpoints = 2};
        struct lg_segment seg;
        _exit(setrlimit(RLIMIT_FSIZE, &limit) != 0 || lg_segment_create(&options, &seg) != -EFBIG);
    }
    assert_int_equal(rig_wait(child), 0);
    assert_int_equal(rig_dir_count(dir), 0);
}

static void
segment_is_locked_for_life(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    int fd = open(seg.path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), -1);
    assert_int_equal(errno, EWOULDBLOCK);
    assert_true(fcntl(seg.fd, F_GETFD) & FD_CLOEXEC);
    lg_segment_close(&seg, false);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), 0);
    close(fd);
}

static void
close_removes_the_file(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    lg_segment_close(&seg, false);
    assert_null(seg.base);
    assert_int_equal(seg.fd, -1);
    assert_int_equal(rig_dir_count(dir), 0);
    lg_segment_close(&seg, false);              /* twice does no harm */
}

static void
kept_segment_says_exited(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    struct lg_geometry geo;
    char path[256];
    strcpy(path, seg.path);
    lg_segment_close(&seg, true);
    assert_int_equal(rig_geometry(path, &geo), 0);
    assert_int_equal(geo.header.state, LG_STATE_EXITED);
}

static void
file_that_took_our_name_is_not_removed(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    assert_int_equal(unlink(seg.path), 0);
    int fd = open(seg.path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    close(fd);
    lg_segment_close(&seg, false);
    assert_int_equal(rig_dir_count(dir), 1);
}

static void
forked_child_forgets_and_the_parent_keeps_all(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    pid_t child = fork();
    if (child == 0) {
        lg_segment_forget(&seg);
        _exit(seg.base != NULL || seg.fd != -1 || seg.endpoints != NULL);
    }
    assert_int_equal(rig_wait(child), 0);
    int fd = open(seg.path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), -1);     /* the lock survived */
    close(fd);
    assert_int_equal(seg.header->state, LG_STATE_RUNNING);
    lg_segment_close(&seg, false);
}

static void
child_that_closes_by_mistake_only_forgets(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    pid_t child = fork();
    if (child == 0) {
        lg_segment_close(&seg, false);
        _exit(0);
    }
    assert_int_equal(rig_wait(child), 0);
    assert_int_equal(rig_dir_count(dir), 1);
    assert_int_equal(seg.header->state, LG_STATE_RUNNING);
    lg_segment_close(&seg, false);
}

static void
forked_child_makes_a_segment_of_its_own(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    pid_t child = fork();
    if (child == 0) {
        struct lg_segment_options options = {.dir = dir->path, .endpoints = 2};
        lg_segment_forget(&seg);
        int err = lg_segment_create(&options, &seg);
        bool own = err == 0 && seg.proc->pid == (uint32_t)getpid();
        lg_segment_close(&seg, true);
        _exit(!own);
    }
    assert_int_equal(rig_wait(child), 0);
    assert_int_equal(rig_dir_count(dir), 2);
    lg_segment_close(&seg, false);
}

static void
maker_killed_at_any_moment_leaves_nothing_that_misleads(void **state)
{
    const struct rig_dir *dir = *state;
    uint64_t random = 3;
    for (int round = 0; round < 60; round++) {
        char path[RIG_PATH];
        struct lg_geometry geo;
        pid_t child = fork();
        if (child == 0) {
            struct lg_segment_options options = {.dir = dir->path};
            struct lg_segment seg;
            while (lg_segment_create(&options, &seg) == 0) {
                lg_segment_close(&seg, false);
            }
            _exit(1);
        }
        uint64_t until_ns = lg_now_ns() + rig_random(&random) % (10 * LG_NS_PER_MS);
        while (lg_now_ns() < until_ns) {}
        kill(child, SIGKILL);
        assert_true(WIFSIGNALED(rig_wait(child)));
        if (rig_dir_find(dir, path) > 0) {
            int err = rig_geometry(path, &geo);
            assert_true(err == LG_EEMPTY || err == 0);
            assert_int_equal(unlink(path), 0);
        }
    }
}

static void
appended_strings_are_read_back(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    char text[32];
    uint32_t first = lg_strings_append(&seg, "/items/{id}", 11);
    uint32_t second = lg_strings_append(&seg, "f", 1);
    assert_true(first != 0 && second > first);
    assert_true(lg_string_get(seg.strings, seg.tables->strings_used, first, text, sizeof(text)));
    assert_string_equal(text, "/items/{id}");
    assert_true(lg_string_get(seg.strings, seg.tables->strings_used, second, text, sizeof(text)));
    assert_string_equal(text, "f");
    assert_int_equal(lg_strings_append(&seg, "", 0), 0);
    lg_segment_close(&seg, false);
}

static void
long_string_is_cut_between_characters(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    char in[601];
    char out[600];
    memset(in, 'x', sizeof(in));
    in[LG_MAX_STRING - 1] = '\xE2';            /* a euro sign on the edge */
    in[LG_MAX_STRING] = '\x82';
    in[LG_MAX_STRING + 1] = '\xAC';
    uint32_t id = lg_strings_append(&seg, in, sizeof(in));
    assert_true(lg_string_get(seg.strings, seg.tables->strings_used, id, out, sizeof(out)));
    assert_int_equal(strlen(out), LG_MAX_STRING - 1);
    assert_null(strchr(out, '?'));
    lg_segment_close(&seg, false);
}

static void
full_string_table_gives_id_zero_and_keeps_what_it_has(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    char text[LG_MAX_STRING];
    char out[600];
    uint32_t id;
    uint32_t last = 0;
    memset(text, 'y', sizeof(text));
    while ((id = lg_strings_append(&seg, text, sizeof(text))) != 0) {
        last = id;
    }
    assert_true(seg.tables->strings_used <= seg.string_bytes);
    assert_true(seg.string_bytes - seg.tables->strings_used < 520);
    assert_true(lg_string_get(seg.strings, seg.tables->strings_used, last, out, sizeof(out)));
    assert_int_equal(strlen(out), LG_MAX_STRING);
    lg_segment_close(&seg, false);
}

static void
frames_link_to_older_frames_only(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    assert_int_equal(lg_frames_append(&seg, 1, 2, 30, 0), 1);
    assert_int_equal(lg_frames_append(&seg, 1, 3, 40, 1), 2);
    assert_int_equal(lg_frames_append(&seg, 1, 3, 40, 3), 0);
    assert_int_equal(seg.frames[2].next, 1);
    assert_int_equal(seg.tables->frames_used, 3);
    lg_segment_close(&seg, false);
}

static void
full_frame_table_gives_zero(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    uint32_t made = 0;
    while (lg_frames_append(&seg, 1, 2, 3, 0) != 0) {
        made++;
    }
    assert_int_equal(made, seg.frame_count - 1);
    assert_int_equal(seg.tables->frames_used, seg.frame_count);
    lg_segment_close(&seg, false);
}

static void
scribbled_cursors_do_not_steer_the_writer(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 0);
    seg.tables->strings_used = UINT64_MAX / 2;
    seg.tables->frames_used = UINT64_MAX / 2;
    uint32_t id = lg_strings_append(&seg, "sane", 4);
    assert_true(id > 0 && id < 10);
    assert_int_equal(lg_frames_append(&seg, 1, 1, 1, 0), 1);
    lg_segment_close(&seg, false);
}

static void
note_of_a_switched_off_agent_says_why(void **state)
{
    char link[64];
    char target[64] = "";
    struct lg_geometry geo;
    (void)state;
    int fd = lg_segment_off_note(NULL, "LOOPGUARD_ENABLED=0");
    assert_true(fd >= 0);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    assert_true(readlink(link, target, sizeof(target) - 1) > 0);
    assert_non_null(strstr(target, LG_OFF_MEMFD_NAME));
    assert_int_equal(rig_geometry(link, &geo), 0);
    assert_int_equal(geo.header.state, LG_STATE_OFF);
    assert_int_equal(geo.proc.pid, getpid());
    assert_string_equal(geo.proc.off_reason, "LOOPGUARD_ENABLED=0");
    assert_int_equal(geo.section[LG_SEC_ENDPOINTS].count, 0);
    assert_int_equal(mode_of(link), 0600);
    close(fd);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, drop_dir)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(new_segment_passes_the_readers_check),
        IN_DIR(process_facts_come_from_the_kernel),
        IN_DIR(what_the_agent_passes_stays),
        IN_DIR(slot_zero_of_each_table_exists),
        IN_DIR(rings_lie_side_by_side_and_fill_their_section),
        IN_DIR(segment_at_defaults_is_at_most_4_mib),
        IN_DIR(largest_segment_is_within_the_readers_limit),
        cmocka_unit_test(shared_memory_is_the_default_place),
        IN_DIR(mode_is_0600_whatever_the_umask),
        IN_DIR(group_may_read_only_when_asked_and_nobody_else_may_write),
        IN_DIR(taken_names_get_a_number_and_the_ninth_is_refused),
        IN_DIR(squatters_file_is_left_as_it_is),
        cmocka_unit_test(directory_on_a_disk_is_refused_and_stays_empty),
        cmocka_unit_test(directory_that_is_missing_or_too_long_is_an_error),
        IN_DIR(senseless_number_of_endpoints_is_refused),
        IN_DIR(full_tmpfs_is_an_error_and_leaves_nothing),
        IN_DIR(file_size_limit_is_an_error_and_no_signal),
        IN_DIR(segment_is_locked_for_life),
        IN_DIR(close_removes_the_file),
        IN_DIR(kept_segment_says_exited),
        IN_DIR(file_that_took_our_name_is_not_removed),
        IN_DIR(forked_child_forgets_and_the_parent_keeps_all),
        IN_DIR(child_that_closes_by_mistake_only_forgets),
        IN_DIR(forked_child_makes_a_segment_of_its_own),
        IN_DIR(maker_killed_at_any_moment_leaves_nothing_that_misleads),
        IN_DIR(appended_strings_are_read_back),
        IN_DIR(long_string_is_cut_between_characters),
        IN_DIR(full_string_table_gives_id_zero_and_keeps_what_it_has),
        IN_DIR(frames_link_to_older_frames_only),
        IN_DIR(full_frame_table_gives_zero),
        IN_DIR(scribbled_cursors_do_not_steer_the_writer),
        cmocka_unit_test(note_of_a_switched_off_agent_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
