/* test_slots.c - replaces getppid() in this program and in objects loaded late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "hooks/slots.h"

#define OURS 1000001
#define TOOL 1000002

typedef pid_t (*getppid_fn)(void);

static pid_t
our_getppid(void)
{
    return OURS;
}

static pid_t
tool_getppid(void)
{
    return TOOL;
}

static struct lg_slot_want ours;
static struct lg_slot_want tool;

static int
setup(void **state)
{
    (void)state;
    uintptr_t next = lg_slots_next("getppid");
    ours = (struct lg_slot_want){"getppid", (uintptr_t)our_getppid, next, 0, 0};
    tool = (struct lg_slot_want){"getppid", (uintptr_t)tool_getppid, next, 0, 0};
    return next == 0;
}

static struct lg_slots *
replaced(const struct lg_slot_want *want)
{
    struct lg_slots *slots = NULL;
    assert_int_equal(lg_slots_open(&slots, want, 1), 0);
    assert_int_equal(lg_slots_scan(slots), 0);
    return slots;
}

static void *
load(const char *name, int mode)
{
    char path[4096];
    const char *folder = getenv("LG_TEST_OBJECTS");
    assert_non_null(folder);
    snprintf(path, sizeof(path), "%s/%s.so", folder, name);
    void *object = dlopen(path, mode | RTLD_LOCAL);
    if (object == NULL) {
        fail_msg("%s", dlerror());
    }
    return object;
}

static pid_t
call(void *object, const char *name)
{
    getppid_fn fn;
    *(void **)&fn = dlsym(object, name);
    assert_non_null(fn);
    return fn();
}

/* The program calls it where the compiler cannot see what it gets. */
static pid_t
call_here(void)
{
    return getppid();
}

/* What /proc/self/maps says of the mappings whose path has `name`. */
static char *
mappings_of(const char *name)
{
    static char text[1 << 16];
    char line[4096];
    size_t used = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (strstr(line, name) != NULL) {
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s", line);
        }
    }
    fclose(maps);
    return strdup(text);
}

static bool
is_writable(const void *address)
{
    char line[4096];
    bool writable = true;
    FILE *maps = fopen("/proc/self/maps", "re");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        uintptr_t lo;
        uintptr_t hi;
        char flags[5];
        if (sscanf(line, "%lx-%lx %4s", &lo, &hi, flags) == 3 && (uintptr_t)address >= lo &&
            (uintptr_t)address < hi) {
            writable = flags[1] == 'w';
        }
    }
    fclose(maps);
    return writable;
}

static void
the_programs_own_calls_are_replaced_and_restored(void **state)
{
    (void)state;
    pid_t parent = call_here();
    struct lg_slots *slots = replaced(&ours);
    assert_int_equal(call_here(), OURS);
    lg_slots_close(slots);
    assert_int_equal(call_here(), parent);
}

static void
an_object_loaded_late_is_replaced_by_the_next_scan(void **state)
{
    (void)state;
    struct lg_slots *slots = replaced(&ours);
    void *object = load("late_now", RTLD_NOW);
    pid_t parent = call(object, "late_getppid");
    assert_int_not_equal(parent, OURS);
    assert_int_equal(lg_slots_scan(slots), 0);
    assert_int_equal(call(object, "late_getppid"), OURS);
    assert_int_equal(call(object, "late_getppid_by_pointer"), OURS);
    lg_slots_close(slots);
    assert_int_equal(call(object, "late_getppid"), parent);
    assert_int_equal(call(object, "late_getppid_by_pointer"), parent);
    dlclose(object);
}

static void
a_slot_not_yet_bound_is_replaced_before_its_first_call(void **state)
{
    (void)state;
    void *object = load("late_lazy", RTLD_LAZY);
    struct lg_slots *slots = replaced(&ours);
    assert_int_equal(call(object, "late_getppid"), OURS);
    lg_slots_close(slots);
    assert_int_equal(call(object, "late_getppid"), call_here());
    dlclose(object);
}

static void
read_only_pages_are_read_only_again(void **state)
{
    (void)state;
    void *object = load("late_now", RTLD_NOW);
    const void *table = dlsym(object, "late_table");
    assert_false(is_writable(table));
    char *before = mappings_of("late_now.so");
    struct lg_slots *slots = replaced(&ours);
    assert_int_equal(call(object, "late_getppid_by_pointer"), OURS);
    assert_false(is_writable(table));
    char *during = mappings_of("late_now.so");
    assert_string_equal(during, before);
    lg_slots_close(slots);
    char *after = mappings_of("late_now.so");
    assert_string_equal(after, before);
    free(before);
    free(during);
    free(after);
    dlclose(object);
}

static void
a_slot_that_another_tool_has_is_left_alone_and_counted(void **state)
{
    (void)state;
    struct lg_slots *first = replaced(&tool);
    struct lg_slots *slots = replaced(&ours);
    struct lg_slots_count count;
    lg_slots_count(slots, &count);
    assert_int_equal(call_here(), TOOL);
    assert_int_equal(count.held, 0);
    assert_true(count.foreign >= 1);
    lg_slots_close(slots);
    assert_int_equal(call_here(), TOOL);
    lg_slots_close(first);
}

static void
a_tool_that_came_after_us_keeps_its_slot(void **state)
{
    (void)state;
    struct lg_slots *slots = replaced(&ours);
    struct lg_slot_want on_top = tool;
    on_top.next = ours.ours;            /* it found us there */
    struct lg_slots *last = replaced(&on_top);
    struct lg_slots_count count;
    lg_slots_count(slots, &count);
    assert_int_equal(count.held, 0);
    assert_true(count.foreign >= 1);
    lg_slots_close(slots);
    assert_int_equal(call_here(), TOOL);
    lg_slots_close(last);
    assert_int_equal(call_here(), OURS);    /* what it remembers: still callable */
    static struct lg_slot_want undo;
    static struct lg_slots *volatile undone;     /* stays: closing it would put ours back */
    undo = (struct lg_slot_want){"getppid", ours.next, ours.ours, 0, 0};
    undone = replaced(&undo);
    assert_non_null(undone);
    assert_int_not_equal(call_here(), OURS);
}

static void
a_slot_bound_behind_our_back_is_ours_again(void **state)
{
    (void)state;
    struct lg_slots *slots = replaced(&ours);
    struct lg_slot_want binder = {"getppid", ours.next, ours.ours, 0, 0};
    struct lg_slots *other = replaced(&binder);
    assert_int_not_equal(call_here(), OURS);
    void *object = load("late_now", RTLD_NOW);
    assert_int_equal(lg_slots_scan(slots), 0);
    assert_int_equal(call_here(), OURS);
    lg_slots_close(other);
    lg_slots_close(slots);
    dlclose(object);
}

static void
an_object_loaded_anew_is_replaced_anew(void **state)
{
    (void)state;
    struct lg_slots *slots = replaced(&ours);
    struct lg_slots_count before;
    lg_slots_count(slots, &before);
    for (int i = 0; i < 3; i++) {
        void *object = load("late_now", RTLD_NOW);
        assert_int_equal(lg_slots_scan(slots), 0);
        assert_int_equal(call(object, "late_getppid"), OURS);
        dlclose(object);
    }
    assert_int_equal(lg_slots_scan(slots), 0);
    struct lg_slots_count after;
    lg_slots_count(slots, &after);
    assert_int_equal(after.objects, before.objects);
    assert_int_equal(after.held, before.held);
    lg_slots_close(slots);
}

static void
after_an_unload_what_we_hold_is_still_restored(void **state)
{
    (void)state;
    void *gone = load("late_lazy", RTLD_NOW);
    struct lg_slots *slots = replaced(&ours);
    dlclose(gone);
    assert_int_equal(lg_slots_scan(slots), 0);
    assert_int_equal(call_here(), OURS);
    lg_slots_close(slots);
    assert_int_not_equal(call_here(), OURS);
}

static void
a_want_for_one_object_is_replaced_in_no_other(void **state)
{
    (void)state;
    void *object = load("late_now", RTLD_NOW);
    struct lg_slot_want want = ours;
    want.only_in = (uintptr_t)dlsym(object, "late_getppid");
    struct lg_slots *slots = replaced(&want);
    assert_int_equal(call(object, "late_getppid"), OURS);
    assert_int_not_equal(call_here(), OURS);
    lg_slots_close(slots);
    dlclose(object);
}

static void
a_want_may_leave_one_object_alone(void **state)
{
    (void)state;
    void *object = load("late_now", RTLD_NOW);
    struct lg_slot_want want = ours;
    want.not_in = (uintptr_t)dlsym(object, "late_getppid");
    struct lg_slots *slots = replaced(&want);
    assert_int_not_equal(call(object, "late_getppid"), OURS);
    assert_int_equal(call_here(), OURS);
    lg_slots_close(slots);
    dlclose(object);
}

static void
a_scan_with_nothing_new_changes_nothing(void **state)
{
    (void)state;
    struct lg_slots *slots = replaced(&ours);
    struct lg_slots_count before;
    struct lg_slots_count after;
    lg_slots_count(slots, &before);
    assert_int_equal(lg_slots_scan(slots), 0);
    lg_slots_count(slots, &after);
    assert_memory_equal(&after, &before, sizeof(before));
    assert_int_equal(lg_slots_held(slots, 0), before.held);
    assert_int_equal(before.refused, 0);
    lg_slots_close(slots);
}

/* In a non-PIE program &getppid is the program's PLT entry, which leads through
 * the slot that we replace: as "the real function" it would be a loop. */
static void
the_real_function_lies_in_a_library(void **state)
{
    (void)state;
    Dl_info real;
    Dl_info here;
    assert_int_not_equal(dladdr((void *)lg_slots_next("getppid"), &real), 0);
    assert_int_not_equal(dladdr((void *)(uintptr_t)call_here, &here), 0);
    assert_ptr_not_equal(real.dli_fbase, here.dli_fbase);
    volatile getppid_fn taken = getppid;    /* makes the PLT entry */
    struct lg_slots *slots = replaced(&ours);
    assert_int_equal(call_here(), OURS);
    lg_slots_close(slots);
    assert_int_equal(taken(), call_here());
}

static void
a_function_that_libc_lacks_has_no_real_one(void **state)
{
    (void)state;
    assert_int_equal(lg_slots_next("lg_no_such_function"), 0);
    struct lg_slot_want want = {"lg_no_such_function", (uintptr_t)our_getppid, 0, 0, 0};
    struct lg_slots *slots = replaced(&want);
    assert_int_equal(lg_slots_held(slots, 0), 0);
    lg_slots_close(slots);
}

static void
too_many_wants_are_refused(void **state)
{
    (void)state;
    struct lg_slots *slots = NULL;
    assert_int_equal(lg_slots_open(&slots, &ours, 100000), -22);
    assert_null(slots);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_programs_own_calls_are_replaced_and_restored, setup),
        cmocka_unit_test_setup(an_object_loaded_late_is_replaced_by_the_next_scan, setup),
        cmocka_unit_test_setup(a_slot_not_yet_bound_is_replaced_before_its_first_call, setup),
        cmocka_unit_test_setup(read_only_pages_are_read_only_again, setup),
        cmocka_unit_test_setup(a_slot_that_another_tool_has_is_left_alone_and_counted, setup),
        cmocka_unit_test_setup(a_tool_that_came_after_us_keeps_its_slot, setup),
        cmocka_unit_test_setup(a_slot_bound_behind_our_back_is_ours_again, setup),
        cmocka_unit_test_setup(an_object_loaded_anew_is_replaced_anew, setup),
        cmocka_unit_test_setup(after_an_unload_what_we_hold_is_still_restored, setup),
        cmocka_unit_test_setup(a_want_for_one_object_is_replaced_in_no_other, setup),
        cmocka_unit_test_setup(a_want_may_leave_one_object_alone, setup),
        cmocka_unit_test_setup(a_scan_with_nothing_new_changes_nothing, setup),
        cmocka_unit_test_setup(the_real_function_lies_in_a_library, setup),
        cmocka_unit_test_setup(a_function_that_libc_lacks_has_no_real_one, setup),
        cmocka_unit_test_setup(too_many_wants_are_refused, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
