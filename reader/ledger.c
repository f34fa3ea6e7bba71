/*
 * ledger.c - see ledger.h.
 */
#include "ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "../common/lg_error.h"
#include "../common/lg_proc.h"
#include "../viewer/find.h"
#include "../viewer/image.h"
#include "shared.h"

/* A worker that lived when we looked. */
struct member {
    struct lg_source source;
    bool seen;                          /* still in its folder, this time */
};

struct lg_ledger {
    char *app;                          /* NULL: that of this process */
    char *dir;
    bool identified;
    struct lg_proc_info self;           /* whose application it is; once identified */
    struct member *member;
    size_t member_count;
    size_t member_room;
    struct lg_shared shared;            /* what the dead had counted */
    struct lg_families total;
    uint8_t *image;                     /* one segment at a time */
    size_t image_size;
    uint32_t unread;
};

static int scan(struct lg_ledger *ledger);
static void identify(struct lg_ledger *ledger, const struct lg_sources *found);
static bool belongs(const struct lg_ledger *ledger, const struct lg_proc_info *proc);
static int bury_dead(struct lg_ledger *ledger, struct lg_sources *found);
static int take_source(struct lg_ledger *ledger, struct lg_source *source);
static int add_members(struct lg_ledger *ledger);
static int take_image(struct lg_ledger *ledger, struct lg_source *source);

int
lg_ledger_new(const char *app, const char *dir, struct lg_ledger **out)
{
    struct lg_ledger *ledger = calloc(1, sizeof(*ledger));
    if (ledger == NULL) {
        return -ENOMEM;
    }
    ledger->app = app != NULL ? strdup(app) : NULL;
    ledger->dir = strdup(dir != NULL ? dir : "/dev/shm");
    lg_families_init(&ledger->total);
    lg_shared_init(&ledger->shared);
    if (ledger->dir == NULL || (app != NULL && ledger->app == NULL)) {
        lg_ledger_free(ledger);
        return -ENOMEM;
    }
    *out = ledger;
    return 0;
}

void
lg_ledger_free(struct lg_ledger *ledger)
{
    if (ledger == NULL) {
        return;
    }
    for (size_t i = 0; i < ledger->member_count; i++) {
        lg_source_close(&ledger->member[i].source);
    }
    lg_families_free(&ledger->total);
    lg_shared_free(&ledger->shared);
    free(ledger->member);
    free(ledger->image);
    free(ledger->app);
    free(ledger->dir);
    free(ledger);
}

int
lg_ledger_update(struct lg_ledger *ledger)
{
    ledger->unread = 0;
    lg_families_clear(&ledger->total);
    int err = scan(ledger);
    if (err == 0) {
        err = lg_families_add(&ledger->total, &ledger->shared.sums);
    }
    return err != 0 ? err : add_members(ledger);
}

int
lg_ledger_retire_self(struct lg_ledger *ledger)
{
    int err = scan(ledger);
    for (size_t i = 0; i < ledger->member_count && err == 0; i++) {
        struct lg_source *source = &ledger->member[i].source;
        if (source->pid != getpid() || take_image(ledger, source) != 0) {
            continue;
        }
        /* It is on its way out, and says so itself. */
        source->geo.header.state = LG_STATE_EXITED;
        lg_shared_begin(&ledger->shared);
        if (!lg_shared_knows(&ledger->shared, &source->geo)) {
            err = lg_shared_bury(&ledger->shared, &source->geo, ledger->image);
        }
        lg_shared_end(&ledger->shared);
    }
    return err;
}

const struct lg_families *
lg_ledger_total(const struct lg_ledger *ledger)
{
    return &ledger->total;
}

uint32_t
lg_ledger_unread(const struct lg_ledger *ledger)
{
    return ledger->unread;
}

/* Afterwards the members are those that are not in `shared`: the living. */
static int
scan(struct lg_ledger *ledger)
{
    struct lg_sources found = {0};
    struct lg_problems problems = {0};
    lg_find_dir(ledger->dir, &found, &problems);
    identify(ledger, &found);
    int err = 0;
    if (ledger->app != NULL || ledger->identified) {
        err = bury_dead(ledger, &found);
    }
    lg_sources_free(&found);
    lg_problems_free(&problems);
    return err;
}

/* This process's own segment says whose application we answer for. A fork has
 * another one: asked anew each time, and kept when the agent was stopped. */
static void
identify(struct lg_ledger *ledger, const struct lg_sources *found)
{
    for (size_t i = 0; i < found->count; i++) {
        const struct lg_source *source = &found->list[i];
        if (source->life == LG_ALIVE && source->pid == getpid()) {
            ledger->self = source->geo.proc;
            ledger->identified = true;
        }
    }
    if (ledger->app != NULL && !ledger->identified) {
        memset(&ledger->self, 0, sizeof(ledger->self));
        ledger->self.uid = geteuid();
        (void)lg_proc_read_ns(0, "pid", &ledger->self.ns_pid);
    }
    if (ledger->app != NULL || ledger->identified) {
        lg_shared_name(&ledger->shared, ledger->dir, &ledger->self, ledger->app);
    }
}

static bool
belongs(const struct lg_ledger *ledger, const struct lg_proc_info *proc)
{
    const struct lg_proc_info *self = &ledger->self;
    if (ledger->app != NULL) {
        return strncmp(proc->app, ledger->app, sizeof(proc->app)) == 0;
    }
    return proc->uid == self->uid && proc->ppid == self->ppid && proc->ns_pid == self->ns_pid &&
           strncmp(proc->app, self->app, sizeof(proc->app)) == 0;
}

/* Members that are no more, and files of workers that we never saw alive. One
 * that cannot be buried now stays a member and is counted as it is. */
static int
bury_dead(struct lg_ledger *ledger, struct lg_sources *found)
{
    int err = 0;
    size_t kept = 0;
    for (size_t i = 0; i < ledger->member_count; i++) {
        ledger->member[i].seen = false;
    }
    for (size_t i = 0; i < found->count && err == 0; i++) {
        err = take_source(ledger, &found->list[i]);
    }
    lg_shared_begin(&ledger->shared);
    for (size_t i = 0; i < ledger->member_count; i++) {
        struct member *m = &ledger->member[i];
        struct lg_source *source = &m->source;
        bool known = lg_shared_knows(&ledger->shared, &source->geo);
        if (!m->seen) {                 /* unlinked: it ended, or is about to */
            source->life = lg_liveness(&source->geo, source->fd, source->pid);
        }
        bool bury = !known && source->life != LG_ALIVE && lg_shared_ready(&ledger->shared);
        if (bury && err == 0 && take_image(ledger, source) == 0) {
            err = lg_shared_bury(&ledger->shared, &source->geo, ledger->image);
            known = true;
        }
        if (known) {
            lg_source_close(source);
        }
        else {
            ledger->member[kept++] = *m;
        }
    }
    ledger->member_count = kept;
    lg_shared_end(&ledger->shared);
    return err;
}

/* A file of the application that we do not hold yet becomes a member. */
static int
take_source(struct lg_ledger *ledger, struct lg_source *source)
{
    if (!belongs(ledger, &source->geo.proc) || lg_shared_knows(&ledger->shared, &source->geo)) {
        return 0;
    }
    for (size_t i = 0; i < ledger->member_count; i++) {
        struct member *m = &ledger->member[i];
        if (m->source.dev == source->dev && m->source.ino == source->ino &&
            m->source.geo.header.nonce == source->geo.header.nonce) {
            m->seen = true;
            m->source.life = source->life;
            return 0;
        }
    }
    if (ledger->member_count == ledger->member_room) {
        size_t room = ledger->member_room != 0 ? 2 * ledger->member_room : 8;
        struct member *larger = realloc(ledger->member, room * sizeof(*larger));
        if (larger == NULL) {
            return -ENOMEM;
        }
        ledger->member = larger;
        ledger->member_room = room;
    }
    ledger->member[ledger->member_count++] = (struct member){.source = *source, .seen = true};
    source->fd = -1;                    /* handed over */
    return 0;
}

static int
add_members(struct lg_ledger *ledger)
{
    int err = 0;
    for (size_t i = 0; i < ledger->member_count && err == 0; i++) {
        struct lg_source *source = &ledger->member[i].source;
        uint64_t now_ns = source->life == LG_ALIVE ? lg_now_ns() : 0;
        if (take_image(ledger, source) != 0) {
            ledger->unread++;
            continue;
        }
        err = lg_families_account(&ledger->total, &source->geo, ledger->image, now_ns);
    }
    return err;
}

/* The header's state of the moment goes into `geo`: it says how it ended. */
static int
take_image(struct lg_ledger *ledger, struct lg_source *source)
{
    uint64_t size = source->geo.header.segment_size;
    size = (size < source->file_size ? size : source->file_size) + 8;
    if (size > ledger->image_size) {
        free(ledger->image);
        ledger->image = calloc(1, size);
        ledger->image_size = ledger->image != NULL ? size : 0;
    }
    if (ledger->image == NULL) {
        return -ENOMEM;
    }
    int err = lg_image_take(source->fd, &source->geo, lg_families_kinds, ledger->image, size);
    if (err == 0) {
        struct lg_header header;
        memcpy(&header, ledger->image, sizeof(header));
        source->geo.header.state = header.state;
    }
    return err;
}
