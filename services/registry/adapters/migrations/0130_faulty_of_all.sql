DROP INDEX revisions_faulty;
