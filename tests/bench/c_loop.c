/* c_loop LIBRARY TOKEN KEY [SESSIONS]: what a token does without us: C_SignInit and C_Sign with CKM_ECDSA, in a loop.
 *
 * The one thing to know: it loads the library as a host does, with CKF_OS_LOCKING_OK, and each of its sessions has a
 * thread of its own. TOKEN and KEY are labels; the PIN is the first line of standard input.
 * It says "ready" and takes commands, a line each:
 *
 *     run SECONDS   sign with every session for so long; answers with signatures a second
 *     latency N     sign N times with one session; answers with the nanoseconds of each
 */

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long word;
typedef word (*function)();
typedef struct { word type; void *value; word size; } attribute;
typedef struct { word mechanism; void *parameter; word size; } mechanism;
typedef struct { void *mutexes[4]; word flags; void *reserved; } initialize_arguments;
typedef struct { unsigned char version[2]; function functions[68]; } function_list;

/* Places in CK_FUNCTION_LIST of PKCS#11 v2.40. */
enum { C_Initialize = 0, C_GetSlotList = 4, C_GetTokenInfo = 6, C_OpenSession = 12, C_Login = 18,
       C_FindObjectsInit = 26, C_FindObjects = 27, C_FindObjectsFinal = 28, C_SignInit = 42, C_Sign = 43 };
enum { CKF_OS_LOCKING_OK = 2, CKF_SERIAL_SESSION = 4, CKU_USER = 1, CKA_CLASS = 0, CKA_LABEL = 3, CKO_PRIVATE_KEY = 3,
       CKM_ECDSA = 0x1041 };
enum { MAX_SLOTS = 64, MAX_SESSIONS = 256, LABEL = 32, TOKEN_INFO = 256, DIGEST = 32, SIGNATURE = 256 };

static function_list *library;
static word private_key;
static pthread_barrier_t together;

static void check(const char *what, word rv) {
    if (rv) {
        fprintf(stderr, "c_loop: %s: 0x%lx\n", what, rv);
        exit(1);
    }
}

#define CALL(name, ...) check(#name, library->functions[name](__VA_ARGS__))

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void load(const char *path) {
    void *handle = dlopen(path, RTLD_NOW);
    function get = handle ? (function)dlsym(handle, "C_GetFunctionList") : NULL;
    if (!get) {
        fprintf(stderr, "c_loop: %s\n", dlerror());
        exit(1);
    }
    check("C_GetFunctionList", get(&library));
    initialize_arguments arguments = {.flags = CKF_OS_LOCKING_OK};
    CALL(C_Initialize, &arguments);
}

static word slot_of(const char *token) {
    word slots[MAX_SLOTS], count = MAX_SLOTS;
    char padded[LABEL + 1], info[TOKEN_INFO];
    snprintf(padded, sizeof padded, "%-32s", token);
    CALL(C_GetSlotList, (unsigned char)1, slots, &count);
    for (word i = 0; i < count; i++)
        if (!library->functions[C_GetTokenInfo](slots[i], info) && !memcmp(info, padded, LABEL)) return slots[i];
    fprintf(stderr, "c_loop: no token is labelled %s\n", token);
    exit(1);
}

static word find(word session, const char *label) {
    word class = CKO_PRIVATE_KEY, found, count = 0;
    attribute wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, (void *)label, strlen(label)}};
    CALL(C_FindObjectsInit, session, wanted, (word)2);
    CALL(C_FindObjects, session, &found, (word)1, &count);
    CALL(C_FindObjectsFinal, session);
    if (count) return found;
    fprintf(stderr, "c_loop: no private key is labelled %s\n", label);
    exit(1);
}

static void sign(word session, uint64_t number) {
    static mechanism ecdsa = {CKM_ECDSA, NULL, 0};
    unsigned char digest[DIGEST] = {1}, signature[SIGNATURE];
    word size = sizeof signature;
    /* The last bytes, and not more numbers than the fault module can remember. */
    number %= 256;
    memcpy(digest + DIGEST - sizeof number, &number, sizeof number);
    CALL(C_SignInit, session, &ecdsa, private_key);
    CALL(C_Sign, session, digest, (word)DIGEST, signature, &size);
}

typedef struct { pthread_t thread; word session; uint64_t length; double rate; } worker;

static void *work(void *given) {
    worker *w = given;
    uint64_t count = 0, began, at;
    pthread_barrier_wait(&together);
    began = now();
    do sign(w->session, count++);
    while ((at = now()) - began < w->length);
    w->rate = (double)count * 1e9 / (double)(at - began);
    return NULL;
}

static double run(worker *workers, unsigned count, double seconds) {
    double rate = 0;
    pthread_barrier_init(&together, NULL, count);
    for (unsigned i = 0; i < count; i++) {
        workers[i].length = (uint64_t)(seconds * 1e9);
        if (i) pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    work(&workers[0]);
    for (unsigned i = 0; i < count; i++) {
        if (i) pthread_join(workers[i].thread, NULL);
        rate += workers[i].rate;
    }
    pthread_barrier_destroy(&together);
    return rate;
}

int main(int argc, char **argv) {
    static worker workers[MAX_SESSIONS];
    unsigned count = argc > 4 ? (unsigned)atoi(argv[4]) : 1;
    char line[256];
    if (argc < 4 || !count || count > MAX_SESSIONS || !fgets(line, sizeof line, stdin)) {
        fprintf(stderr, "usage: c_loop LIBRARY TOKEN KEY [SESSIONS], and the PIN on standard input\n");
        return 2;
    }
    line[strcspn(line, "\n")] = 0;
    load(argv[1]);
    word slot = slot_of(argv[2]);
    for (unsigned i = 0; i < count; i++)
        CALL(C_OpenSession, slot, (word)CKF_SERIAL_SESSION, NULL, NULL, &workers[i].session);
    CALL(C_Login, workers[0].session, (word)CKU_USER, line, (word)strlen(line));
    memset(line, 0, sizeof line);
    private_key = find(workers[0].session, argv[3]);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        double seconds;
        unsigned times;
        if (sscanf(line, "run %lf", &seconds) == 1) {
            printf("%.3f\n", run(workers, count, seconds));
        } else if (sscanf(line, "latency %u", &times) == 1) {
            for (unsigned i = 0; i < times; i++) {
                uint64_t began = now();
                sign(workers[0].session, i);
                printf(i ? " %lu" : "%lu", (unsigned long)(now() - began));
            }
            printf("\n");
        } else {
            fprintf(stderr, "c_loop: what is %s", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
