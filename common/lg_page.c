/*
 * lg_page.c - fills the page that every reader reads first.
 *
 * Runs once per segment, in the thread that creates it.
 */
#include "lg_page.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lg_atomic.h"
#include "lg_clock.h"
#include "lg_crc32c.h"
#include "lg_proc.h"

/* The default counts of LG_SECTIONS by name. */
enum {
#define LG_X(name, number, type, count, what) COUNT_##name = count,
    LG_SECTIONS(LG_X)
#undef LG_X
};

static void plan_section(struct lg_plan *plan, uint32_t kind, uint32_t stride, uint32_t count);
static uint32_t planned_count(uint32_t kind, uint32_t standard, uint32_t endpoints);
static void describe_start(struct lg_proc_info *proc);
static void describe_program(struct lg_proc_info *proc);
static uint64_t draw_nonce(void);

void
lg_plan_segment(struct lg_plan *plan, uint32_t endpoints)
{
    *plan = (struct lg_plan){.size_bytes = LG_HEADER_SIZE};
#define LG_X(name, number, type, count, what) \
    plan_section(plan, number, sizeof(type), planned_count(number, count, endpoints));
    LG_SECTIONS(LG_X)
#undef LG_X
}

void
lg_plan_note(struct lg_plan *plan)
{
    *plan = (struct lg_plan){.size_bytes = LG_HEADER_SIZE};
    plan_section(plan, LG_SEC_PROC, sizeof(struct lg_proc_info), 1);
    plan_section(plan, LG_SEC_CONFIG, sizeof(struct lg_config_info), 1);
    plan->size_bytes = LG_HEADER_PAGE;
}

int
lg_page_describe(struct lg_proc_info *proc)
{
    struct lg_proc_stat stat;
    int err = lg_proc_read_stat(0, &stat);
    if (err != 0) {
        return err;
    }
    proc->start_ticks = proc->start_ticks != 0 ? proc->start_ticks : stat.start_ticks;
    proc->pid = proc->pid != 0 ? proc->pid : (uint32_t)getpid();
    proc->ppid = proc->ppid != 0 ? proc->ppid : (uint32_t)getppid();
    /* 0 is root's number too: then these write what already stands there. */
    proc->uid = proc->uid != 0 ? proc->uid : (uint32_t)geteuid();
    proc->gid = proc->gid != 0 ? proc->gid : (uint32_t)getegid();
    proc->pointer_size = sizeof(void *);
    describe_start(proc);
    describe_program(proc);
    return 0;
}

void
lg_page_fill(void *page, const struct lg_plan *plan, const struct lg_proc_info *proc,
             const struct lg_config_info *config, enum lg_segment_state state)
{
    uint8_t *bytes = page;
    struct lg_header *header = page;
    header->endian_tag = LG_ENDIAN_TAG;
    header->abi_major = LG_ABI_MAJOR;
    header->abi_minor = LG_ABI_MINOR;
    header->header_size = LG_HEADER_SIZE;
    header->section_count = plan->count;
    header->segment_size = plan->size_bytes;
    header->nonce = draw_nonce();
    memcpy(bytes + sizeof(*header), plan->section, plan->count * sizeof(plan->section[0]));
    /* PROC and CONFIG come first in every plan. */
    memcpy(bytes + plan->section[0].offset, proc, sizeof(*proc));
    memcpy(bytes + plan->section[1].offset, config, sizeof(*config));
    header->crc32c = lg_crc32c(bytes + sizeof(*header), LG_HEADER_PAGE - sizeof(*header));
    lg_store32_relaxed(&header->state, state);
}

void
lg_page_publish(void *page)
{
    uint64_t magic;
    memcpy(&magic, LG_MAGIC, sizeof(magic));
    /* A reader that finds the magic must find all the rest: pairs with the
     * check of the magic before anything else, in lg_geometry_check(). */
    lg_store_release(&((struct lg_header *)page)->magic, magic);
}

static void
plan_section(struct lg_plan *plan, uint32_t kind, uint32_t stride, uint32_t count)
{
    uint64_t length = (uint64_t)stride * count;
    /* PROC and CONFIG stay in the page that the checksum covers. */
    if (kind != LG_SEC_PROC && kind != LG_SEC_CONFIG && plan->size_bytes < LG_HEADER_PAGE) {
        plan->size_bytes = LG_HEADER_PAGE;
    }
    plan->section[plan->count++] = (struct lg_section){
        .kind = kind,
        .version = 1,
        .offset = plan->size_bytes,
        .length = length,
        .stride = stride,
        .count = count,
    };
    plan->size_bytes += (length + 63) & ~UINT64_C(63);
}

/* What grows with the number of endpoints; the rest is as in LG_SECTIONS. */
static uint32_t
planned_count(uint32_t kind, uint32_t standard, uint32_t endpoints)
{
    switch (kind) {
    case LG_SEC_ENDPOINTS:
        return endpoints;
    case LG_SEC_HISTS:
        return LG_HIST_POOL_WAIT(endpoints, COUNT_LOOPS) + 1;
    case LG_SEC_ENDPOINT_HISTORY:
        return endpoints * LG_CELLS;
    case LG_SEC_STRINGS:
        /* 256 bytes for each endpoint beyond the standard number. */
        return endpoints > COUNT_ENDPOINTS ? endpoints * 256 : standard;
    default:
        return standard;
    }
}

static void
describe_start(struct lg_proc_info *proc)
{
    if (proc->start_mono_ns != 0) {
        return;
    }
    struct lg_clocks clocks;
    lg_clocks_read(&clocks);
    proc->start_mono_ns = clocks.mono_ns;
    proc->start_real_ns = clocks.real_ns;
    proc->start_boot_ns = clocks.boot_ns;
    proc->start_uncertainty_ns = clocks.uncertainty_ns;
}

/* What is missing here only makes the display poorer: errors leave 0 or "". */
static void
describe_program(struct lg_proc_info *proc)
{
    static const uint8_t no_boot_id[16];
    if (memcmp(proc->boot_id, no_boot_id, sizeof(no_boot_id)) == 0) {
        (void)lg_proc_read_boot_id(proc->boot_id);
    }
    if (proc->ns_pid == 0) {
        (void)lg_proc_read_ns(0, "pid", &proc->ns_pid);
    }
    if (proc->ns_mnt == 0) {
        (void)lg_proc_read_ns(0, "mnt", &proc->ns_mnt);
    }
    if (proc->ns_time == 0) {
        (void)lg_proc_read_ns(0, "time", &proc->ns_time);
    }
    if (proc->clock_ticks_per_s == 0) {
        proc->clock_ticks_per_s = (uint32_t)sysconf(_SC_CLK_TCK);
    }
    if (proc->exe[0] == '\0') {
        (void)lg_proc_read_exe(0, proc->exe, sizeof(proc->exe));
    }
    if (proc->argv[0] == '\0') {
        (void)lg_proc_read_cmdline(0, proc->argv, sizeof(proc->argv));
    }
    if (proc->cwd[0] == '\0' && getcwd(proc->cwd, sizeof(proc->cwd)) == NULL) {
        proc->cwd[0] = '\0';
    }
}

/* Tells two segments of one name apart; never 0. Not a secret. */
static uint64_t
draw_nonce(void)
{
    uint64_t nonce = 0;
    if (getrandom(&nonce, sizeof(nonce), GRND_NONBLOCK) != (ssize_t)sizeof(nonce) || nonce == 0) {
        nonce = lg_now_ns() << 16 | (uint64_t)getpid() | 1;
    }
    return nonce;
}
