/*
 * screen.c - the loop of the screens: time, keys, prompts, and which room
 * draws.
 *
 * Two clocks: the table's interval, and ten times a second the banner, which
 * reads the loops' entries only and redraws one line, if that. Nothing here
 * waits but lg_term_wait(). When the terminal is gone the loop ends.
 *
 * For tests only, from the environment: LOOPGUARD_TEST_KEYS is pressed key by
 * key before the keyboard is read ("<Enter>", "<Down>" .. by name), and
 * LOOPGUARD_TEST_SAVE names the file that gets the screen, as text, when the
 * last of them was pressed; then the program ends.
 */
#include "screen.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "find.h"
#include "screen_parts.h"
#include "top_json.h"

#define FAST_NS (100 * LG_NS_PER_MS)
#define DELAY_MIN 0.1
#define DELAY_MAX 60.0

static int take_terminal(struct lg_screen *s);
static void run(struct lg_screen *s);
static void tick(struct lg_screen *s);
static void tick_fast(struct lg_screen *s);
static bool stack_is_waiting(struct lg_screen *s);
static void draw(struct lg_screen *s);
static void paint(struct lg_screen *s);
static void notice_restarts(struct lg_screen *s);
static void pass_on_message(struct lg_screen *s);
static void choose_worker(struct lg_screen *s, size_t worker);
static void find_worker_again(struct lg_screen *s);
static void ring_once(struct lg_screen *s);
static void read_keys(struct lg_screen *s);
static void handle_key(struct lg_screen *s, int key);
static void act(struct lg_screen *s, enum lg_act action, int key);
static void go(struct lg_screen *s, enum lg_page page);
static void go_back(struct lg_screen *s, bool may_quit);
static void move(struct lg_screen *s, long rows);
static void open_row(struct lg_screen *s);
static void click(struct lg_screen *s);
static void open_detail(struct lg_screen *s, const struct lg_key *key);
static void step_endpoint(struct lg_screen *s, int step);
static void step_screen(struct lg_screen *s, int step);
static void step_worker(struct lg_screen *s, int step);
static void set_window(struct lg_screen *s, enum lg_window window);
static void start_prompt(struct lg_screen *s, enum lg_prompt prompt);
static void prompt_key(struct lg_screen *s, int key);
static void menu_key(struct lg_screen *s, int key);
static void end_prompt(struct lg_screen *s);
static void set_filter(struct lg_screen *s, const char *text);
static void search(struct lg_screen *s, int step);
static bool contains(const char *text, const char *part);
static void set_delay(struct lg_screen *s, double delay_s);
static void toggle_pause(struct lg_screen *s);
static void write_snapshot(struct lg_screen *s);
static void play_test_keys(struct lg_screen *s);
static int named_key(const char **script);
static void save_screen(const struct lg_screen *s, const char *path);

int
lg_screen_run(struct lg_top *top, const struct lg_options *options)
{
    struct lg_screen *s = calloc(1, sizeof(*s));
    if (s == NULL) {
        fprintf(stderr, "loopguard-top: out of memory\n");
        return LG_EXIT_ERROR;
    }
    s->top = top;
    s->options = options;
    s->view = options->view;
    s->delay_s = options->delay_s;
    s->started_real_ns = top->now_real_ns;
    s->frozen = getenv("LOOPGUARD_TEST_NOW") != NULL;
    s->follow_events = true;
    s->known_workers = top->worker_count;
    set_filter(s, options->view.filter != NULL ? options->view.filter : "");
    choose_worker(s, 0);
    s->page = options->events         ? LG_PAGE_EVENTS
              : top->worker_count > 1 ? LG_PAGE_WORKERS
                                      : LG_PAGE_OVERVIEW;
    if (s->view.merge) {
        s->worker = LG_ALL_WORKERS;
    }
    setlocale(LC_CTYPE, "");
    s->glyphs = lg_glyphs_choose(options->ascii);
    s->status = take_terminal(s);
    int signo = 0;
    if (s->term != NULL) {
        run(s);
        signo = lg_term_signal(s->term);
        lg_term_stop(s->term);
    }
    int status = s->status;
    lg_canvas_free(&s->canvas);
    free(s);
    if (signo != 0) {
        lg_term_die(signo);
    }
    return status;
}

static int
take_terminal(struct lg_screen *s)
{
    char why[256];
    struct lg_term_options options = {
        .color = lg_options_use_color(s->options, STDOUT_FILENO),
        .mouse = s->options->mouse,
        .program = "loopguard-top",
    };
    if (lg_term_start(&options, &s->term, why, sizeof(why)) != 0) {
        fprintf(stderr, "loopguard-top: %s\n", why);
        return LG_EXIT_ERROR;
    }
    s->mouse = options.mouse;
    return LG_EXIT_OK;
}

/* ---- time -------------------------------------------------------------- */

static void
run(struct lg_screen *s)
{
    draw(s);
    play_test_keys(s);
    uint64_t now = lg_now_ns();
    uint64_t next = now + (uint64_t)(s->delay_s * 1e9);
    uint64_t next_fast = now + FAST_NS;
    while (!s->quit) {
        now = lg_now_ns();
        /* Never longer than a tenth of a second: a signal may come just before
         * the wait, and then does not end it. */
        uint64_t due = next_fast > next ? next : next_fast;
        int wait_ms = due > now ? (int)((due - now + LG_NS_PER_MS - 1) / LG_NS_PER_MS) : 0;
        double delay_s = s->delay_s;
        switch (lg_term_wait(s->term, wait_ms)) {
        case LG_TERM_SIGNAL:
            s->quit = true;
            continue;
        case LG_TERM_GONE:
            s->status = LG_EXIT_ERROR;
            s->quit = true;
            continue;
        case LG_TERM_INPUT:
        case LG_TERM_NOTHING:           /* a new size is a key that poll() does not see */
            read_keys(s);
            break;
        }
        now = lg_now_ns();
        if (s->delay_s != delay_s) {
            next = now + (uint64_t)(s->delay_s * 1e9);
        }
        if (now >= next) {
            tick(s);
            next = now + (uint64_t)(s->delay_s * 1e9);
            next_fast = now + FAST_NS;
        }
        else if (now >= next_fast) {
            tick_fast(s);
            next_fast = now + FAST_NS;
        }
    }
}

static void
tick(struct lg_screen *s)
{
    if (!s->paused) {
        lg_top_refresh(s->top);
        find_worker_again(s);
        notice_restarts(s);
        pass_on_message(s);
        ring_once(s);
    }
    draw(s);
    s->updates++;
    if (s->options->count != 0 && s->updates >= s->options->count) {
        s->quit = true;
    }
}

/* One line, and only when it says something else. The screen of the present
 * block counts with it. */
static void
tick_fast(struct lg_screen *s)
{
    if (s->paused || !lg_top_refresh_banner(s->top)) {
        return;
    }
    if (stack_is_waiting(s)) {
        tick(s);
        return;
    }
    ring_once(s);
    int row = lg_screen_banner_row(s);
    if (s->page == LG_PAGE_BLOCKED) {
        draw(s);
    }
    else if (row >= 0 && s->canvas.rows >= 4 && s->canvas.columns >= 20) {
        lg_screen_banner(s, row);
        lg_term_show(s->term, &s->canvas);
    }
}

/* The fast lane copies no tables. When the watchdog has sampled a block whose
 * stack is not among ours, all is copied at once, twice a second at most. */
static bool
stack_is_waiting(struct lg_screen *s)
{
    const struct lg_banner *banner = lg_top_banner(s->top);
    if (banner == NULL || banner->kind != LG_BANNER_BLOCKED ||
        banner->worker >= s->top->worker_count) {
        return false;
    }
    const struct lg_blocked *b = &s->top->workers[banner->worker]->blocked;
    uint64_t now = lg_now_ns();
    if (b->stack.depth > 0 || b->samples == LG_NONE || b->samples == 0 ||
        now - s->copied_ns < 5 * FAST_NS) {
        return false;
    }
    s->copied_ns = now;
    return true;
}

static void
draw(struct lg_screen *s)
{
    paint(s);
    if (!s->quit) {
        lg_term_show(s->term, &s->canvas);
    }
}

static void
paint(struct lg_screen *s)
{
    static void (*const rooms[])(struct lg_screen *) = {
#define LG_X(name, suffix, word) lg_screen_##suffix,
        LG_PAGES(LG_X)
#undef LG_X
    };
    int rows;
    int columns;
    lg_term_size(s->term, &rows, &columns);
    if (lg_canvas_size(&s->canvas, rows, columns, !s->glyphs->utf8) != 0) {
        s->quit = true;
        s->status = LG_EXIT_ERROR;
        return;
    }
    if (columns < 20 || rows < 4) {
        lg_canvas_printf(&s->canvas, 0, 0, LG_STYLE_NORMAL, "20x4 needed, %dx%d here", columns,
                         rows);
    }
    else {
        rooms[s->page](s);
    }
}

/* ---- workers that come and go ------------------------------------------ */

static void
choose_worker(struct lg_screen *s, size_t worker)
{
    s->worker = worker;
    const struct lg_worker *w = lg_screen_worker(s);
    snprintf(s->worker_label, sizeof(s->worker_label), "%.63s", w != NULL ? w->label : "");
    if (w != NULL && w->post_mortem && s->view.window != LG_WINDOW_1M) {
        s->view.window = LG_WINDOW_TOTAL;
    }
}

/* A refresh may have sorted the workers anew. */
static void
find_worker_again(struct lg_screen *s)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    if (s->worker == LG_ALL_WORKERS ||
        (worker != NULL && strncmp(worker->label, s->worker_label, 63) == 0)) {
        return;
    }
    for (size_t i = 0; i < s->top->worker_count; i++) {
        if (strncmp(s->top->workers[i]->label, s->worker_label, 63) == 0) {
            s->worker = i;
            return;
        }
    }
    choose_worker(s, 0);
}

/* "Worker 41207 was replaced by 41399; ] to watch it". */
static void
notice_restarts(struct lg_screen *s)
{
    if (s->top->worker_count <= s->known_workers) {
        s->known_workers = s->top->worker_count;
        return;
    }
    s->known_workers = s->top->worker_count;
    const struct lg_worker *newest = NULL;
    const struct lg_worker *ended = NULL;
    for (size_t i = 0; i < s->top->worker_count; i++) {
        const struct lg_worker *w = s->top->workers[i];
        if (!w->post_mortem && (newest == NULL || w->started_real_ns > newest->started_real_ns)) {
            newest = w;
        }
    }
    for (size_t i = 0; newest != NULL && i < s->top->worker_count; i++) {
        const struct lg_worker *w = s->top->workers[i];
        if (w->post_mortem && w->ppid == newest->ppid && w->ended_real_ns >= s->started_real_ns &&
            (ended == NULL || w->ended_real_ns > ended->ended_real_ns)) {
            ended = w;
        }
    }
    if (ended != NULL) {
        lg_screen_say(s, "Worker %s was replaced by %s; ] to watch it", ended->label,
                      newest->label);
    }
}

/* "2 rows could not be read cleanly this time": once for each wording. */
static void
pass_on_message(struct lg_screen *s)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    if (worker != NULL && strcmp(worker->message, s->told) != 0) {
        snprintf(s->told, sizeof(s->told), "%s", worker->message);
        if (s->told[0] != '\0') {
            lg_screen_say(s, "%s", s->told);
        }
    }
}

static void
ring_once(struct lg_screen *s)
{
    const struct lg_banner *banner = lg_top_banner(s->top);
    bool alarm = banner != NULL && banner->kind == LG_BANNER_BLOCKED && banner->alarm;
    if (alarm && !s->rang && s->options->bell) {
        lg_term_bell(s->term);
    }
    s->rang = alarm;
}

/* ---- keys -------------------------------------------------------------- */

static void
read_keys(struct lg_screen *s)
{
    int key;
    bool any = false;
    while (!s->quit && (key = lg_term_key(s->term)) != LG_KEY_NOTHING) {
        handle_key(s, key);
        paint(s);                       /* the next key may move in a new list */
        any = true;
    }
    if (any && !s->quit) {
        lg_term_show(s->term, &s->canvas);
    }
}

static void
handle_key(struct lg_screen *s, int key)
{
    if (key == LG_KEY_RESIZE) {
        return;                         /* drawn anew anyway */
    }
    if (s->prompt == LG_PROMPT_SORT) {
        menu_key(s, key);
    }
    else if (s->prompt == LG_PROMPT_COPY) {
        s->prompt = LG_PROMPT_NONE;
    }
    else if (s->prompt != LG_PROMPT_NONE) {
        prompt_key(s, key);
    }
    else if (s->page == LG_PAGE_HELP) {
        go_back(s, false);
        if (lg_keys_action(key) == LG_ACT_QUIT) {
            s->quit = true;
        }
    }
    else {
        s->message[0] = '\0';
        act(s, lg_keys_action(key), key);
    }
}

static void
act(struct lg_screen *s, enum lg_act action, int key)
{
    struct lg_list *list = &s->list[s->page];
    char name[LG_TEXT];
    long page = list->visible > 1 ? (long)list->visible - 1 : 1;
    switch (action) {
    case LG_ACT_NONE:
        lg_screen_say(s, "No such key: %s (? for help)", lg_keys_name(key, name, sizeof(name)));
        break;
    case LG_ACT_UP:
        move(s, -1);
        break;
    case LG_ACT_DOWN:
        move(s, 1);
        break;
    case LG_ACT_PAGE_UP:
        move(s, -page);
        break;
    case LG_ACT_PAGE_DOWN:
        move(s, page);
        break;
    case LG_ACT_HALF_UP:
        move(s, -(page + 1) / 2);
        break;
    case LG_ACT_HALF_DOWN:
        move(s, (page + 1) / 2);
        break;
    case LG_ACT_FIRST:
        move(s, -(long)list->count);
        break;
    case LG_ACT_LAST:
        move(s, (long)list->count);
        break;
    case LG_ACT_LEFT:
        s->sideways = s->sideways > 8 ? s->sideways - 8 : 0;
        break;
    case LG_ACT_RIGHT:
        s->sideways += s->sideways < LG_NAME_MAX ? 8 : 0;
        break;
    case LG_ACT_OPEN:
        open_row(s);
        break;
    case LG_ACT_CLICK:
        click(s);
        break;
    case LG_ACT_CLOSE:
        go_back(s, true);
        break;
    case LG_ACT_ESCAPE:
        if (s->view.filter[0] != '\0') {
            set_filter(s, "");
        }
        else {
            go_back(s, false);
        }
        break;
    case LG_ACT_QUIT:
        s->quit = true;
        break;
    case LG_ACT_OVERVIEW:
        go(s, LG_PAGE_OVERVIEW);
        break;
    case LG_ACT_EVENTS:
        if (s->page == LG_PAGE_WORKERS && s->top->worker_count > 1) {
            choose_worker(s, LG_ALL_WORKERS);
        }
        go(s, LG_PAGE_EVENTS);
        break;
    case LG_ACT_BLOCKED:
        go(s, LG_PAGE_BLOCKED);
        break;
    case LG_ACT_WORKERS:
        go(s, LG_PAGE_WORKERS);
        break;
    case LG_ACT_POOL:
        go(s, LG_PAGE_POOL);
        break;
    case LG_ACT_PREVIOUS_WORKER:
        step_worker(s, -1);
        break;
    case LG_ACT_NEXT_WORKER:
        step_worker(s, 1);
        break;
    case LG_ACT_NEXT_ENDPOINT:
        step_endpoint(s, 1);
        break;
    case LG_ACT_PREVIOUS_ENDPOINT:
        step_endpoint(s, -1);
        break;
    case LG_ACT_NEXT_SCREEN:
        step_screen(s, 1);
        break;
    case LG_ACT_PREVIOUS_SCREEN:
        step_screen(s, -1);
        break;
    case LG_ACT_WINDOW_1:
    case LG_ACT_WINDOW_2:
    case LG_ACT_WINDOW_3:
    case LG_ACT_WINDOW_4:
        set_window(s, (enum lg_window)(action - LG_ACT_WINDOW_1));
        break;
    case LG_ACT_SORT_LEFT:
        s->view.sort = lg_screen_next_sort(s, -1);
        break;
    case LG_ACT_SORT_RIGHT:
        s->view.sort = lg_screen_next_sort(s, 1);
        break;
    case LG_ACT_SORT_MENU:
        if (s->page != LG_PAGE_OVERVIEW) {
            go(s, LG_PAGE_OVERVIEW);
        }
        s->menu_at = (size_t)s->view.sort;
        s->prompt = LG_PROMPT_SORT;
        break;
    case LG_ACT_REVERSE:
        s->view.reverse = !s->view.reverse;
        break;
    case LG_ACT_SEARCH:
        start_prompt(s, LG_PROMPT_SEARCH);
        break;
    case LG_ACT_SEARCH_NEXT:
        search(s, 1);
        break;
    case LG_ACT_SEARCH_PREVIOUS:
        search(s, -1);
        break;
    case LG_ACT_FILTER:
        start_prompt(s, LG_PROMPT_FILTER);
        break;
    case LG_ACT_PAUSE:
        toggle_pause(s);
        break;
    case LG_ACT_FASTER:
        set_delay(s, s->delay_s <= 1.05 ? s->delay_s - 0.1
                     : s->delay_s <= 5  ? s->delay_s - 0.5
                                        : s->delay_s - 5);
        break;
    case LG_ACT_SLOWER:
        set_delay(s, s->delay_s < 0.95 ? s->delay_s + 0.1
                     : s->delay_s < 5  ? s->delay_s + 0.5
                                       : s->delay_s + 5);
        break;
    case LG_ACT_SAMPLE:
        if (!s->paused) {
            lg_top_refresh(s->top);
            find_worker_again(s);
        }
        lg_screen_say(s, s->paused ? "Paused (Space resumes)" : "Sampled now");
        break;
    case LG_ACT_FOLLOW:
        if (s->page == LG_PAGE_EVENTS) {
            s->follow_events = !s->follow_events;
        }
        else {
            s->follow_row = !s->follow_row;
            lg_screen_say(s, s->follow_row ? "Follow on: the cursor stays on its endpoint"
                                           : "Follow off: the cursor stays in its line");
        }
        break;
    case LG_ACT_FOLD:
        s->unfold = !s->unfold;
        lg_screen_say(s, s->unfold ? "Library frames shown" : "Library frames folded");
        break;
    case LG_ACT_ORDER:
        s->order = (enum lg_stack_order)((s->order + 1) % (LG_STACKS_BY_LAST + 1));
        break;
    case LG_ACT_MINIMUM:
        start_prompt(s, LG_PROMPT_MINIMUM);
        break;
    case LG_ACT_MERGE:
        if (s->page == LG_PAGE_WORKERS) {
            s->one_by_one = !s->one_by_one;
        }
        else if (s->worker == LG_ALL_WORKERS) {
            choose_worker(s, 0);
            lg_screen_say(s, "One worker: %s", s->worker_label);
        }
        else if (s->top->worker_count > 1) {
            choose_worker(s, LG_ALL_WORKERS);
            lg_screen_say(s, "Merged over all live workers");
        }
        else {
            lg_screen_say(s, "There is only one worker");
        }
        break;
    case LG_ACT_HIDE_DEAD:
        s->view.hide_dead = !s->view.hide_dead;
        lg_screen_say(s, s->view.hide_dead ? "Ended workers hidden" : "Ended workers shown");
        break;
    case LG_ACT_ZERO:
        lg_top_zero(s->top, s->zeroed_real_ns == 0);
        s->zeroed_real_ns = lg_top_zeroed_real_ns(s->top);
        lg_screen_say(s, s->zeroed_real_ns != 0
                             ? "Counting from now (the agent goes on; r again ends it)"
                             : "Counting since the worker started");
        break;
    case LG_ACT_WRITE:
        write_snapshot(s);
        break;
    case LG_ACT_YANK:
        if (s->copy[0] != '\0') {
            s->prompt = LG_PROMPT_COPY;
        }
        else {
            lg_screen_say(s, "No line of code is known here");
        }
        break;
    case LG_ACT_MOUSE:
        s->mouse = !s->mouse;
        lg_term_mouse(s->term, s->mouse);
        lg_screen_say(s,
                      s->mouse ? "Mouse on (the terminal's own copying: with Shift)" : "Mouse off");
        break;
    case LG_ACT_REDRAW:
        lg_term_redraw(s->term);
        break;
    case LG_ACT_SUSPEND:
        lg_term_suspend(s->term);
        break;
    case LG_ACT_HELP_PAGE:
        go(s, LG_PAGE_HELP);
        break;
    }
}

/* ---- pages ------------------------------------------------------------- */

static void
go(struct lg_screen *s, enum lg_page page)
{
    if (page == s->page) {
        return;
    }
    /* The first screens stand beside each other; the others on top of one. */
    if (page < LG_TAB_PAGES) {
        s->depth = 0;
    }
    if (page != LG_PAGE_OVERVIEW && s->depth < LG_PAGE_COUNT) {
        s->back[s->depth++] = page < LG_TAB_PAGES ? LG_PAGE_OVERVIEW : s->page;
    }
    s->page = page;
}

static void
go_back(struct lg_screen *s, bool may_quit)
{
    if (s->depth > 0) {
        s->page = s->back[--s->depth];
    }
    else if (may_quit) {
        s->quit = true;
    }
}

static void
move(struct lg_screen *s, long rows)
{
    struct lg_list *list = &s->list[s->page];
    long at = (long)list->at + rows;
    long last = list->count > 0 ? (long)list->count - 1 : 0;
    list->at = (size_t)(at < 0 ? 0 : at > last ? last : at);
    if (s->page == LG_PAGE_EVENTS) {
        const struct lg_event *events;
        size_t count = lg_top_events(s->top, s->worker, &s->view, &events);
        s->follow_events = false;
        s->event_ticket = list->at < count ? events[list->at].ticket : 0;
        s->event_worker = list->at < count ? events[list->at].worker : 0;
    }
    if (s->page == LG_PAGE_OVERVIEW) {
        s->row_key.name = NULL;         /* F follows the new one */
    }
}

static void
open_row(struct lg_screen *s)
{
    struct lg_list *list = &s->list[s->page];
    const struct lg_row *rows;
    const struct lg_event *events;
    const struct lg_worker *worker = lg_screen_worker(s);
    switch (s->page) {
    case LG_PAGE_OVERVIEW:
        if (list->at < lg_top_rows(s->top, s->worker, &s->view, &rows)) {
            open_detail(s, &rows[list->at].key);
        }
        break;
    case LG_PAGE_EVENTS:
        if (list->at < lg_top_events(s->top, s->worker, &s->view, &events) &&
            events[list->at].kind != LG_EVENT_MARK) {
            open_detail(s, &events[list->at].key);
        }
        break;
    case LG_PAGE_BLOCKED:
        if (worker != NULL && (worker->blocked.active || worker->blocked.at_death)) {
            open_detail(s, &worker->blocked.key);
        }
        break;
    case LG_PAGE_WORKERS:
        for (size_t i = 0, k = 0; i < s->top->worker_count; i++) {
            if (s->view.hide_dead && s->top->workers[i]->post_mortem) {
                continue;
            }
            if (k++ == list->at) {
                choose_worker(s, i);
                s->depth = 0;
                s->page = LG_PAGE_OVERVIEW;
                s->back[s->depth++] = LG_PAGE_WORKERS;
                break;
            }
        }
        break;
    case LG_PAGE_DETAIL: {
        const struct lg_detail *d;
        if (lg_top_detail(s->top, s->worker, &s->view, &s->key, LG_BANDS_COARSE, s->order, &d) &&
            list->at < d->stack_count) {
            char title[LG_NAME_MAX];
            lg_screen_open_stack(s, lg_screen_weighted(&d->stacks[list->at]),
                                 lg_screen_key_text(&s->key, 0, title, sizeof(title)));
            go(s, LG_PAGE_STACK);
        }
        break;
    }
    case LG_PAGE_POOL:
        worker = worker == NULL && s->top->worker_count > 0 ? s->top->workers[0] : worker;
        if (worker != NULL && list->at < worker->pool.stuck_count) {
            char title[LG_NAME_MAX];
            lg_screen_open_stack(
                s, &worker->pool.stuck[list->at].stack,
                lg_screen_key_text(&worker->pool.stuck[list->at].key, 0, title, sizeof(title)));
            go(s, LG_PAGE_STACK);
        }
        break;
    default:
        break;
    }
}

/* A row: go there; the banner: the present block. */
static void
click(struct lg_screen *s)
{
    int row;
    int column;
    struct lg_list *list = &s->list[s->page];
    lg_term_click(s->term, &row, &column);
    if (row == lg_screen_banner_row(s)) {
        go(s, LG_PAGE_BLOCKED);
    }
    else if (list->top >= 0 && row >= list->top && (size_t)(row - list->top) < list->visible) {
        move(s, (long)list->first + row - list->top - (long)list->at);
    }
}

static void
open_detail(struct lg_screen *s, const struct lg_key *key)
{
    snprintf(s->key_name, sizeof(s->key_name), "%s", key->name != NULL ? key->name : "");
    s->key = *key;
    s->key.name = s->key_name;
    s->list[LG_PAGE_DETAIL] = (struct lg_list){0};
    go(s, LG_PAGE_DETAIL);
}

/* The order of the overview. */
static void
step_endpoint(struct lg_screen *s, int step)
{
    const struct lg_row *rows;
    size_t count = lg_top_rows(s->top, s->worker, &s->view, &rows);
    if (s->page != LG_PAGE_DETAIL) {
        move(s, step);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (lg_key_equal(&rows[i].key, &s->key)) {
            size_t next = (i + count + (size_t)(step + (int)count)) % count;
            s->list[LG_PAGE_OVERVIEW].at = next;
            struct lg_key key = rows[next].key;
            open_detail(s, &key);
            return;
        }
    }
    if (count > 0) {
        struct lg_key key = rows[0].key;
        open_detail(s, &key);
    }
}

static void
step_screen(struct lg_screen *s, int step)
{
    if (s->page == LG_PAGE_DETAIL) {
        step_endpoint(s, step);
        return;
    }
    int at = s->page < LG_TAB_PAGES ? (int)s->page : 0;
    go(s, (enum lg_page)((at + step + LG_TAB_PAGES) % LG_TAB_PAGES));
}

static void
step_worker(struct lg_screen *s, int step)
{
    size_t count = s->top->worker_count;
    if (s->page == LG_PAGE_WORKERS) {
        move(s, step);
        return;
    }
    if (count < 2) {
        if (s->page == LG_PAGE_EVENTS) {
            move(s, step);              /* one dead worker: its events one by one */
        }
        else {
            lg_screen_say(s, "There is only one worker");
        }
        return;
    }
    size_t at = s->worker == LG_ALL_WORKERS ? (step > 0 ? count - 1 : 0) : s->worker;
    for (size_t i = 0; i < count; i++) {
        at = (at + count + (step > 0 ? 1 : count - 1)) % count;
        if (!s->view.hide_dead || !s->top->workers[at]->post_mortem) {
            break;
        }
    }
    choose_worker(s, at);
    lg_screen_say(s, "Worker %s", s->worker_label);
}

static void
set_window(struct lg_screen *s, enum lg_window window)
{
    const struct lg_worker *worker = lg_screen_worker(s);
    if (worker != NULL && worker->post_mortem && window != LG_WINDOW_1M &&
        window != LG_WINDOW_TOTAL) {
        lg_screen_say(s, "After its end a worker has its last minute (2) and the total (4)");
        return;
    }
    s->view.window = window;
}

static void
toggle_pause(struct lg_screen *s)
{
    s->paused = !s->paused;
    s->paused_ns = lg_screen_now(s);
    if (!s->paused) {
        lg_top_refresh(s->top);
        find_worker_again(s);
    }
}

static void
set_delay(struct lg_screen *s, double delay_s)
{
    s->delay_s = delay_s < DELAY_MIN ? DELAY_MIN : delay_s > DELAY_MAX ? DELAY_MAX : delay_s;
    lg_screen_say(s, "Every %.1f s", s->delay_s);
}

/* ---- prompts ----------------------------------------------------------- */

static void
start_prompt(struct lg_screen *s, enum lg_prompt prompt)
{
    s->prompt = prompt;
    s->prompt_text[0] = '\0';
    if (prompt == LG_PROMPT_FILTER) {
        snprintf(s->prompt_text, sizeof(s->prompt_text), "%s", s->filter);
    }
}

static void
prompt_key(struct lg_screen *s, int key)
{
    size_t n = strlen(s->prompt_text);
    char utf8[5];
    switch (key) {
    case LG_KEY_ENTER:
        end_prompt(s);
        return;
    case LG_KEY_ESCAPE:
        s->prompt = LG_PROMPT_NONE;
        return;
    case LG_CTRL('U'):
        s->prompt_text[0] = '\0';
        return;
    case LG_KEY_BACKSPACE:
    case LG_KEY_DELETE:
        if (n == 0) {
            s->prompt = LG_PROMPT_NONE; /* as less and vim do */
        }
        while (n > 0 && (s->prompt_text[--n] & 0xc0) == 0x80) {}
        s->prompt_text[n] = '\0';
        return;
    default:
        break;
    }
    if (key < ' ' || key >= LG_KEY_FIRST) {
        return;
    }
    int bytes = lg_canvas_utf8((uint32_t)key, utf8);
    if (n + (size_t)bytes < sizeof(s->prompt_text)) {
        memcpy(s->prompt_text + n, utf8, (size_t)bytes + 1);
    }
}

static void
end_prompt(struct lg_screen *s)
{
    char *end;
    double ms;
    enum lg_prompt prompt = s->prompt;
    s->prompt = LG_PROMPT_NONE;
    switch (prompt) {
    case LG_PROMPT_SEARCH:
        if (s->prompt_text[0] != '\0') {
            snprintf(s->search, sizeof(s->search), "%s", s->prompt_text);
        }
        search(s, 1);
        break;
    case LG_PROMPT_FILTER:
        set_filter(s, s->prompt_text);
        break;
    case LG_PROMPT_MINIMUM:
        ms = strtod(s->prompt_text, &end);
        if (*end != '\0' || !(ms >= 0) || ms > 1e9) {
            lg_screen_say(s, "'%.40s' is not a number of milliseconds", s->prompt_text);
            break;
        }
        s->view.min_ns = (uint64_t)(ms * 1e6);
        break;
    default:
        break;
    }
}

static void
menu_key(struct lg_screen *s, int key)
{
    switch (lg_keys_action(key)) {
    case LG_ACT_UP:
        s->menu_at = (s->menu_at + LG_SORT_COUNT - 1) % LG_SORT_COUNT;
        break;
    case LG_ACT_DOWN:
        s->menu_at = (s->menu_at + 1) % LG_SORT_COUNT;
        break;
    case LG_ACT_OPEN:
        s->view.sort = (enum lg_sort)s->menu_at;
        s->prompt = LG_PROMPT_NONE;
        break;
    case LG_ACT_QUIT:
        s->quit = true;
        break;
    case LG_ACT_SORT_MENU:
    case LG_ACT_ESCAPE:
    case LG_ACT_CLOSE:
        s->prompt = LG_PROMPT_NONE;
        break;
    default:
        break;
    }
}

static void
set_filter(struct lg_screen *s, const char *text)
{
    if (text != s->filter) {
        snprintf(s->filter, sizeof(s->filter), "%s", text);
    }
    s->view.filter = s->filter;
}

/* To the next row whose name contains the text; round the end. */
static void
search(struct lg_screen *s, int step)
{
    struct lg_list *list = &s->list[s->page];
    const struct lg_row *rows = NULL;
    const struct lg_event *events = NULL;
    char text[LG_NAME_MAX + 32];
    size_t count = 0;
    if (s->search[0] == '\0') {
        lg_screen_say(s, "Nothing to search for (/ asks)");
        return;
    }
    if (s->page == LG_PAGE_EVENTS) {
        count = lg_top_events(s->top, s->worker, &s->view, &events);
    }
    else if (s->page == LG_PAGE_OVERVIEW) {
        count = lg_top_rows(s->top, s->worker, &s->view, &rows);
    }
    else {
        lg_screen_say(s, "Search works in the overview and in the events");
        return;
    }
    for (size_t i = 1; i <= count; i++) {
        size_t at = (list->at + count + (step > 0 ? i : count - i)) % count;
        const struct lg_key *key = rows != NULL ? &rows[at].key : &events[at].key;
        lg_screen_key_text(key, 0, text, sizeof(text));
        if (contains(text, s->search)) {
            move(s, (long)at - (long)list->at);
            return;
        }
    }
    lg_screen_say(s, "Not found: %.100s", s->search);
}

static bool
contains(const char *text, const char *part)
{
    size_t n = strlen(part);
    for (; *text != '\0'; text++) {
        if (strncasecmp(text, part, n) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- files ------------------------------------------------------------- */

/* "loopguard-41207-20261121-140231.json" in the working directory; never over
 * a file that is there. */
static void
write_snapshot(struct lg_screen *s)
{
    char name[160];
    char stamp[32] = "";
    time_t now = (time_t)(s->top->now_real_ns / LG_NS_PER_S);
    struct tm t;
    const struct lg_worker *worker = lg_screen_worker(s);
    if (localtime_r(&now, &t) != NULL) {
        strftime(stamp, sizeof(stamp), "-%Y%m%d-%H%M%S", &t);
    }
    const char *label = worker != NULL ? worker->label : "all";
    const char *slash = strrchr(label, '/');
    snprintf(name, sizeof(name), "loopguard-%.60s%s.json", slash != NULL ? slash + 1 : label,
             stamp);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (out == NULL) {
        lg_screen_say(s, "%s: %s", name, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    lg_top_json(s->top, &s->view, true, out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        int err = errno;
        unlink(name);                   /* half a snapshot would be taken for one */
        lg_screen_say(s, "%s: %s", name, strerror(err));
        return;
    }
    lg_screen_say(s, "Wrote %s", name);
}

/* ---- for tests --------------------------------------------------------- */

static void
play_test_keys(struct lg_screen *s)
{
    const char *script = getenv("LOOPGUARD_TEST_KEYS");
    const char *path = getenv("LOOPGUARD_TEST_SAVE");
    while (script != NULL && *script != '\0' && !s->quit) {
        handle_key(s, named_key(&script));
        if (!s->quit) {
            draw(s);
        }
    }
    if (path != NULL) {
        save_screen(s, path);
        s->quit = true;
    }
}

static int
named_key(const char **script)
{
    static const struct {
        const char *name;
        int key;
    } names[] = {
        {"<Enter>", LG_KEY_ENTER}, {"<Esc>", LG_KEY_ESCAPE}, {"<Up>", LG_KEY_UP},
        {"<Down>", LG_KEY_DOWN},   {"<Left>", LG_KEY_LEFT},  {"<Right>", LG_KEY_RIGHT},
        {"<Tab>", '\t'},           {"<F1>", LG_KEY_F1},      {"<End>", LG_KEY_END},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i].name);
        if (strncmp(*script, names[i].name, n) == 0) {
            *script += n;
            return names[i].key;
        }
    }
    return (unsigned char)*(*script)++;
}

static void
save_screen(const struct lg_screen *s, const char *path)
{
    FILE *out = fopen(path, "we");
    if (out == NULL) {
        fprintf(stderr, "loopguard-top: %s: %s\n", path, strerror(errno));
        return;
    }
    lg_canvas_write(&s->canvas, out);
    fclose(out);
}
