/* test_lg_retention.c - which dead segments stay, and what is never touched. */
#include "rig.h"

#include <sys/time.h>

#define HOUR_S 3600

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

static void
set_age(const char *path, int age_s)
{
    struct timeval when[2] = {{.tv_sec = time(NULL) - age_s}, {.tv_sec = time(NULL) - age_s}};
    assert_int_equal(utimes(path, when), 0);
}

/* A dead segment of process `pid` that ended `age_s` ago. */
static void
leave_dead(const struct rig_dir *dir, uint32_t pid, int age_s, uint32_t endpoints)
{
    struct lg_segment_options options = {.dir = dir->path, .endpoints = endpoints, .proc.pid = pid};
    struct lg_segment seg;
    char path[256];
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    seg.anchor->real_ns = (uint64_t)(time(NULL) - age_s) * LG_NS_PER_S;
    strcpy(path, seg.path);
    lg_segment_close(&seg, true);
    set_age(path, age_s);
}

static void
leave_file(const struct rig_dir *dir, const char *name, const char *bytes, int age_s)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", dir->path, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, strlen(bytes)), strlen(bytes));
    close(fd);
    set_age(path, age_s);
}

static bool
is_there(const struct rig_dir *dir, const char *start)
{
    bool found = false;
    DIR *d = opendir(dir->path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        found = found || strncmp(e->d_name, start, strlen(start)) == 0;
    }
    closedir(d);
    return found;
}

static void
newest_four_stay(void **state)
{
    const struct rig_dir *dir = *state;
    for (uint32_t i = 0; i < 6; i++) {
        leave_dead(dir, 900001 + i, 100 * (int)(i + 1), 2);
    }
    assert_int_equal(lg_segment_prune(dir->path, false), 2);
    assert_true(is_there(dir, "loopguard.900001."));
    assert_true(is_there(dir, "loopguard.900004."));
    assert_false(is_there(dir, "loopguard.900005."));
    assert_false(is_there(dir, "loopguard.900006."));
}

static void
older_than_a_day_goes(void **state)
{
    const struct rig_dir *dir = *state;
    leave_dead(dir, 900001, 23 * HOUR_S, 2);
    leave_dead(dir, 900002, 25 * HOUR_S, 2);
    assert_int_equal(lg_segment_prune(dir->path, false), 1);
    assert_true(is_there(dir, "loopguard.900001."));
}

static void
more_than_16_mib_goes(void **state)
{
    const struct rig_dir *dir = *state;
    leave_dead(dir, 900001, 10, 800);           /* over 8 MiB each */
    leave_dead(dir, 900002, 20, 800);
    leave_dead(dir, 900003, 30, 800);
    assert_int_equal(lg_segment_prune(dir->path, false), 2);
    assert_true(is_there(dir, "loopguard.900001."));
}

static void
worker_that_ran_for_days_and_died_just_now_stays(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 900001);
    char path[256];
    strcpy(path, seg.path);
    seg.anchor->real_ns = (uint64_t)(time(NULL) - 5) * LG_NS_PER_S;
    lg_segment_close(&seg, true);
    set_age(path, 72 * HOUR_S);                 /* stores do not touch the mtime */
    assert_int_equal(lg_segment_prune(dir->path, false), 0);
}

static void
anchor_in_the_future_is_not_believed(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment seg = rig_segment(dir, 900001);
    char path[256];
    strcpy(path, seg.path);
    seg.anchor->real_ns = (uint64_t)(time(NULL) + HOUR_S) * LG_NS_PER_S;
    lg_segment_close(&seg, true);
    set_age(path, 72 * HOUR_S);
    assert_int_equal(lg_segment_prune(dir->path, false), 1);
}

static void
all_takes_the_dead_and_leaves_the_living(void **state)
{
    const struct rig_dir *dir = *state;
    struct lg_segment alive = rig_segment(dir, 0);
    leave_dead(dir, 900001, 1, 2);
    leave_dead(dir, 900002, 2, 2);
    set_age(alive.path, 72 * HOUR_S);
    assert_int_equal(lg_segment_prune(dir->path, true), 2);
    assert_int_equal(rig_dir_count(dir), 1);
    lg_segment_close(&alive, false);
}

static void
segment_being_born_is_left_alone(void **state)
{
    const struct rig_dir *dir = *state;
    leave_file(dir, "loopguard.900001.5", "", 50);
    leave_file(dir, "loopguard.900002.5", "", 70);
    assert_int_equal(lg_segment_prune(dir->path, true), 1);
    assert_true(is_there(dir, "loopguard.900001.5"));
}

static void
other_names_are_none_of_our_business(void **state)
{
    static const char *const names[] = {"loopguard.toml",    "loopguard.1",    "loopguard.1.2.8",
                                        "loopguard.1.2.3.4", "loopguard..2",   "loopguard.1.2x",
                                        "loopguard.-1.2",    "xloopguard.1.2", "loopguard.1.2.",
                                        "loopguard.1.2.77"};
    const struct rig_dir *dir = *state;
    for (size_t i = 0; i < 10; i++) {
        leave_file(dir, names[i], "LGUARD\x1a\n", 72 * HOUR_S);
    }
    assert_int_equal(lg_segment_prune(dir->path, true), 0);
    assert_int_equal(rig_dir_count(dir), 10);
}

static void
links_pipes_and_folders_are_left_alone(void **state)
{
    const struct rig_dir *dir = *state;
    char from[RIG_PATH];
    char to[160];
    leave_dead(dir, 900001, 72 * HOUR_S, 2);
    assert_int_equal(rig_dir_find(dir, from), 1);
    snprintf(to, sizeof(to), "%s/loopguard.900002.1", dir->path);
    assert_int_equal(link(from, to), 0);        /* two names: nlink is 2 */
    snprintf(to, sizeof(to), "%s/loopguard.900003.1", dir->path);
    assert_int_equal(symlink(from, to), 0);
    snprintf(to, sizeof(to), "%s/loopguard.900004.1", dir->path);
    assert_int_equal(mkfifo(to, 0600), 0);
    assert_int_equal(lg_segment_prune(dir->path, true), 0);
    assert_int_equal(rig_dir_count(dir), 4);
}

static void
segments_of_another_user_are_left_alone(void **state)
{
    const struct rig_dir *dir = *state;
    char path[RIG_PATH];
    if (geteuid() != 0) {
        print_message("skipped: needs root to give a file away\n");
        skip();
    }
    leave_dead(dir, 900001, 72 * HOUR_S, 2);
    assert_int_equal(rig_dir_find(dir, path), 1);
    assert_int_equal(chown(path, 65534, 65534), 0);
    assert_int_equal(lg_segment_prune(dir->path, true), 0);
}

static void
damaged_dead_segment_goes_by_its_file_time(void **state)
{
    const struct rig_dir *dir = *state;
    leave_file(dir, "loopguard.900001.1", "LGUARD\x1a\n and then nonsense", 25 * HOUR_S);
    leave_file(dir, "loopguard.900002.1", "not even that, but long", HOUR_S);
    assert_int_equal(lg_segment_prune(dir->path, false), 1);
    assert_true(is_there(dir, "loopguard.900002.1"));
}

static void
missing_folder_is_an_error(void **state)
{
    (void)state;
    assert_int_equal(lg_segment_prune("/dev/shm/no such folder", false), -ENOENT);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_dir, drop_dir)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(newest_four_stay),
        IN_DIR(older_than_a_day_goes),
        IN_DIR(more_than_16_mib_goes),
        IN_DIR(worker_that_ran_for_days_and_died_just_now_stays),
        IN_DIR(anchor_in_the_future_is_not_believed),
        IN_DIR(all_takes_the_dead_and_leaves_the_living),
        IN_DIR(segment_being_born_is_left_alone),
        IN_DIR(other_names_are_none_of_our_business),
        IN_DIR(links_pipes_and_folders_are_left_alone),
        IN_DIR(segments_of_another_user_are_left_alone),
        IN_DIR(damaged_dead_segment_goes_by_its_file_time),
        cmocka_unit_test(missing_folder_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
